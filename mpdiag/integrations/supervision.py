"""`supervision.Detections` from a recording."""

from typing import Any

from torch import Tensor

from mpdiag.errors import RecordingError
from mpdiag.extras import import_optional
from mpdiag.models import ImageSizes, Instances, instance_inference
from mpdiag.recording import Recording, known_families


def to_detections(
    recording: Recording,
    *,
    size: tuple[int, int],
    layer: int = -1,
    index: int = 0,
    valid: tuple[int, int] | None = None,
    min_score: float = 0.5,
    max_detections: int = 100,
) -> Any:
    """Return one layer of a recording as `supervision.Detections`.

    The post-processing is that of the model's family. Masks without a pixel are left out.

    Args:
        recording: with `class_logits` and `mask_logits`.
        size: (height, width) of the returned masks, usually that of the image file.
        layer: 0..L, or from the end if negative.
        index: index of the image in the batch.
        valid: rows and columns of the mask grid that the image covers without padding; None for
            the whole grid.
        min_score: detections with a lower score are left out.
        max_detections: number of pairs of query and class to select.

    Returns:
        Detections with `xyxy` in pixels, `mask`, `confidence`, `class_id`, and `data["query"]`.

    Raises:
        DependencyError: supervision is not installed.
        RecordingError: the recording lacks the tensors, the layer or the image.
    """
    supervision = import_optional("supervision", "to_detections")
    class_logits = _select(recording, "class_logits", layer, index)
    mask_logits = _select(recording, "mask_logits", layer, index)
    grid = (mask_logits.shape[1], mask_logits.shape[2])
    found = instance_inference(
        class_logits,
        mask_logits,
        ImageSizes(padded=grid, image=valid or grid, output=size),
        detections=max_detections,
        rule=next(f.instance_rule for f in known_families() if f.name == recording.family),
    )
    kept = (found.scores >= min_score) & found.query_masks.flatten(1).any(1)[found.rows]
    return _detections(supervision, found, kept)


def _select(recording: Recording, name: str, layer: int, index: int) -> Tensor:
    layers = recording.layers(name)
    if not -len(layers) <= layer < len(layers):
        raise RecordingError(f"layer {layer}: does not exist; use 0 to {len(layers) - 1}")
    if not 0 <= index < len(layers[layer]):
        raise RecordingError(f"image {index}: does not exist; use 0 to {len(layers[layer]) - 1}")
    return layers[layer][index]


def _detections(supervision: Any, found: Instances, kept: Tensor) -> Any:
    masks = found.query_masks[found.rows[kept]].cpu().numpy()
    return supervision.Detections(
        xyxy=supervision.mask_to_xyxy(masks),
        mask=masks,
        confidence=found.scores[kept].cpu().numpy(),
        class_id=found.labels[kept].cpu().numpy(),
        data={"query": found.queries[kept].cpu().numpy()},
    )
