"""A recording as rows: what each query predicts in each layer, without any ground truth."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mpdiag.errors import RecordingError
from mpdiag.metrics import adjacent_overlap
from mpdiag.recording.recording import Recording


def rows_of(recording: Recording, valid: Sequence[tuple[int, int]] | None = None) -> pd.DataFrame:
    """One row for each image, layer and query, in this order; see `Recording.frame`."""
    masks = masks_of(recording)
    images = [
        _one_image(masks[:, index], valid[index] if valid else None)
        for index in range(masks.shape[1])
    ]
    frame = pd.concat(images, keys=range(len(images)), names=["image", None])
    frame = frame.reset_index("image").reset_index(drop=True)
    if "class_logits" in recording:
        found = len(recording.layers("class_logits"))
        if found != len(masks):
            raise RecordingError(
                f"class_logits were made in {found} layers and mask_logits in {len(masks)}, so "
                "that classes can't stand beside masks: record only=['mask_logits']"
            )
        score, label = recording.class_logits.float().softmax(-1)[..., :-1].max(-1)
        frame["label"], frame["score"] = _column(label), _column(score)
    if "assignment" in recording:
        frame["matched_gt"] = _column(recording.assignment)
    return frame


def masks_of(recording: Recording) -> Tensor:
    """(L + 1, B, N, h, w) mask logits; RecordingError where their size changes between layers."""
    masks = recording.mask_logits
    if not isinstance(masks, Tensor):
        sizes = ", ".join(str(tuple(layer.shape)) for layer in masks)
        raise RecordingError(f"masks of layers of different sizes can't be compared: {sizes}")
    return masks


def _one_image(mask_logits: Tensor, valid: tuple[int, int] | None) -> pd.DataFrame:
    """Rows of (L + 1, N, h, w) masks: layer, query, area and IoU with the layer before."""
    masks = mask_logits > 0
    if valid is not None:
        masks = masks[..., : valid[0], : valid[1]]
    intersection, area = (x.cpu() for x in adjacent_overlap(masks))
    union = area[:-1] + area[1:] - intersection
    iou = torch.full(area.shape, torch.nan, dtype=torch.float64)
    iou[1:] = torch.where(union > 0, intersection.double() / union, torch.nan)
    layers, queries = np.indices(tuple(area.shape))
    return pd.DataFrame(
        {
            "layer": layers.ravel(),
            "query": queries.ravel(),
            "area": area.flatten().numpy(),
            "iou_prev": iou.flatten().numpy(),
        }
    )


def _column(values: Tensor) -> np.ndarray:
    """(L + 1, B, N) in the order of the rows."""
    flat: np.ndarray = values.transpose(0, 1).flatten().cpu().numpy()
    return flat
