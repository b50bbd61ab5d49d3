"""Run a checkpoint on an image. This is the only file of the dashboard that imports torch."""

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from mpdiag.checkpoints import LoadedCheckpoint, load_checkpoint
from mpdiag.data import ResizeShortestEdge
from mpdiag.errors import RunError
from mpdiag.metrics.layer_iou import adjacent_overlap, valid_cells
from mpdiag.ops import tf32
from mpdiag.ops.devices import choose_device
from mpdiag.recording import record
from reports.mask_images import RgbImage

MAX_QUERIES = 30
"""Number of queries to keep, by their score in the last layer."""
_LOCK = threading.Lock()
"""Sessions share the model, whose hooks record one forward pass at a time."""


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


def load_model(path: str, device: str | None = None) -> LoadedCheckpoint:
    """Load a checkpoint on a device, without running code from it.

    Args:
        path: the checkpoint.
        device: by default the current GPU, or the CPU if there is none.

    Raises:
        CheckpointError: not a checkpoint that mpdiag reads.
        ConfigError: the device is not available.
    """
    chosen = choose_device(device)
    loaded = load_checkpoint(Path(path))
    loaded.model.to(chosen)
    return loaded


def class_names(loaded: LoadedCheckpoint) -> list[str]:
    """Return the class names in the order of the logits; empty if the checkpoint has none."""
    if loaded.classes:
        return [str(info["name"]) for info in loaded.classes]
    return list(loaded.labels or [])


def device_name(loaded: LoadedCheckpoint) -> str:
    """Return the device that runs the model, for display."""
    device = next(loaded.model.parameters()).device
    return "the CPU" if device.type == "cpu" else f"{device}, {torch.cuda.get_device_name(device)}"


@torch.inference_mode()
def predict(loaded: LoadedCheckpoint, rgb_image: RgbImage) -> LivePredictions:
    """Run the model on an image, resized as in an analysis.

    Raises:
        RunError: the GPU has too little memory.
    """
    image = torch.from_numpy(rgb_image.copy()).permute(2, 0, 1)
    short, longest = loaded.image_size
    if short is not None:
        size = ResizeShortestEdge(short, longest).output_size(*image.shape[1:])
        resized = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)
        image = resized[0].round().clamp(0, 255).byte()
    try:
        with _LOCK:
            return _predict(loaded, image)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"{loaded.path}: the GPU has too little memory for this image; use a smaller image, or "
            "start the dashboard with --device cpu"
        ) from error


def _predict(loaded: LoadedCheckpoint, image: Tensor) -> LivePredictions:
    with record(loaded.model, only=["class_logits", "mask_logits"]) as recording, tf32("none"):
        loaded.model([image])
    rows, columns = valid_cells(image.shape[1], image.shape[2])
    masks = recording.mask_logits[:, 0, :, :rows, :columns] > 0
    scores, labels = recording.class_logits[:, 0].float().softmax(-1)[..., :-1].max(-1)
    intersection, area = adjacent_overlap(masks)
    union = area[1:] + area[:-1] - intersection
    iou = torch.where(union > 0, intersection.double() / union, torch.nan)
    best = scores[-1].argsort(descending=True, stable=True)[:MAX_QUERIES]
    shown = (
        best,
        masks[:, best],
        labels[:, best],
        scores[:, best].double(),
        iou[:, best],
        iou.nanmean(1),
    )
    return LivePredictions(*(values.cpu().numpy() for values in shown))
