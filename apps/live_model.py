"""Run a checkpoint on an image. This is the only file of the dashboard that imports torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from mpdiag.checkpoints import LoadedCheckpoint, load_checkpoint
from mpdiag.data import ResizeShortestEdge
from mpdiag.metrics.layer_iou import adjacent_overlap, valid_cells
from mpdiag.recording import record
from reports.mask_images import RgbImage

MAX_QUERIES = 30
"""Number of queries to keep, by their score in the last layer."""


@dataclass(frozen=True, slots=True)
class LivePredictions:
    """Predictions of all layers for one image, for the K most confident queries.

    Attributes:
        queries: (K,) query indices, highest score in the last layer first.
        masks: (L + 1, K, h, w) bool.
        labels, scores: (L + 1, K) most probable class other than no-object, and its probability.
        iou: (L, K) IoU with the layer before; NaN if both masks are empty.
        miou_l: (L,) mean of this IoU over all queries of the image.
    """

    queries: npt.NDArray[np.int64]
    masks: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    iou: npt.NDArray[np.float64]
    miou_l: npt.NDArray[np.float64]


def load_model(path: str) -> LoadedCheckpoint:
    """Load a checkpoint without running code from it.

    Raises:
        CheckpointError: not a checkpoint that mpdiag reads.
    """
    return load_checkpoint(Path(path))


def class_names(loaded: LoadedCheckpoint) -> list[str]:
    """Return the class names in the order of the logits; empty if the checkpoint has none."""
    if loaded.classes:
        return [str(info["name"]) for info in loaded.classes]
    return list(loaded.labels or [])


@torch.inference_mode()
def predict(loaded: LoadedCheckpoint, rgb_image: RgbImage) -> LivePredictions:
    """Run the model on an image, resized as in an analysis."""
    image = torch.from_numpy(rgb_image.copy()).permute(2, 0, 1)
    short, longest = loaded.image_size
    if short is not None:
        size = ResizeShortestEdge(short, longest).output_size(*image.shape[1:])
        resized = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)
        image = resized[0].round().clamp(0, 255).byte()
    with record(loaded.model, only=["class_logits", "mask_logits"]) as recording:
        loaded.model([image])
    rows, columns = valid_cells(image.shape[1], image.shape[2])
    masks = recording.mask_logits[:, 0, :, :rows, :columns] > 0
    scores, labels = recording.class_logits[:, 0].float().softmax(-1)[..., :-1].max(-1)
    intersection, area = adjacent_overlap(masks)
    union = area[1:] + area[:-1] - intersection
    iou = torch.where(union > 0, intersection.double() / union, torch.nan)
    best = scores[-1].argsort(descending=True, stable=True)[:MAX_QUERIES]
    return LivePredictions(
        best.numpy(),
        masks[:, best].numpy(),
        labels[:, best].numpy(),
        scores[:, best].double().numpy(),
        iou[:, best].numpy(),
        iou.nanmean(1).numpy(),
    )
