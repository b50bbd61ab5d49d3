"""An image through a checkpoint: the only file of the dashboard that imports torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from apps.pictures import Picture
from mpdiag.checkpoints import LoadedCheckpoint, load_checkpoint
from mpdiag.data import ResizeShortestEdge
from mpdiag.metrics.layer_iou import adjacent_overlap, valid_cells
from mpdiag.recording import record

KEPT = 30
"""Queries that are kept of an image, by their score in the last layer."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model predicts for an image in each of its layers, of the K most confident queries.

    Attributes:
        queries: (K,) their numbers, most confident in the last layer first.
        masks: (L + 1, K, h, w) bool.
        labels, scores: (L + 1, K) class of the highest probability, no-object aside, and that.
        iou: (L, K) with the layer before; NaN where both masks are empty.
        miou_l: (L,) mean of this IoU over all queries of the image, not these alone.
    """

    queries: npt.NDArray[np.int64]
    masks: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    iou: npt.NDArray[np.float64]
    miou_l: npt.NDArray[np.float64]


def load(path: str) -> LoadedCheckpoint:
    """Load a checkpoint of our own models without running code from it; CheckpointError else."""
    return load_checkpoint(Path(path))


def class_names(loaded: LoadedCheckpoint) -> list[str]:
    """Names of the classes in the order of the logits, as far as the checkpoint's files tell."""
    if loaded.classes:
        return [str(one["name"]) for one in loaded.classes]
    return list(loaded.labels or [])


@torch.inference_mode()
def predict(loaded: LoadedCheckpoint, picture: Picture) -> Predictions:
    """Run an image (H, W, 3), uint8 RGB, as an analysis would."""
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)
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
    best = scores[-1].argsort(descending=True, stable=True)[:KEPT]
    return Predictions(
        best.numpy(),
        masks[:, best].numpy(),
        labels[:, best].numpy(),
        scores[:, best].double().numpy(),
        iou[:, best].numpy(),
        iou.nanmean(1).numpy(),
    )
