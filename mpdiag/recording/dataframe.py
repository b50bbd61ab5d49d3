"""Recorded tensors as a table with one row per image, layer and query; needs no ground truth."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mpdiag.errors import RecordingError
from mpdiag.metrics import adjacent_iou, adjacent_overlap


def build_dataframe(
    mask_logits: Tensor,
    class_logits: Tensor | None = None,
    assignment: Tensor | None = None,
    valid: Sequence[tuple[int, int]] | None = None,
) -> pd.DataFrame:
    """Return the table of `Recording.to_dataframe`, ordered by image, layer and query.

    Args:
        mask_logits: (L + 1, B, N, h, w).
        class_logits: (L + 1, B, N, K + 1), no-object last.
        assignment: (L + 1, B, N) GT indices.
        valid: rows and columns of the mask grid that each image covers; None for all.

    Raises:
        RecordingError: class and mask logits have different numbers of layers.
    """
    images = [
        _image_rows(mask_logits[:, index], valid[index] if valid else None)
        for index in range(mask_logits.shape[1])
    ]
    frame = pd.concat(images, keys=range(len(images)), names=["image", None])
    frame = frame.reset_index("image").reset_index(drop=True)
    if class_logits is not None:
        if len(class_logits) != len(mask_logits):
            raise RecordingError(
                f"class_logits: {len(class_logits)} layers, but mask_logits have "
                f"{len(mask_logits)}; record only=['mask_logits']"
            )
        score, label = class_logits.float().softmax(-1)[..., :-1].max(-1)
        frame["label"], frame["score"] = _column(label), _column(score)
    if assignment is not None:
        frame["matched_gt"] = _column(assignment)
    return frame


def _image_rows(mask_logits: Tensor, valid: tuple[int, int] | None) -> pd.DataFrame:
    """Return layer, query, area and IoU with the previous layer of (L + 1, N, h, w) masks."""
    masks = mask_logits > 0
    if valid is not None:
        masks = masks[..., : valid[0], : valid[1]]
    intersection, area = (x.cpu() for x in adjacent_overlap(masks))
    iou = torch.full(area.shape, torch.nan, dtype=torch.float64)
    iou[1:] = adjacent_iou(intersection, area)
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
    """Flatten (L + 1, B, N) values in the order of the rows."""
    flat: np.ndarray = values.transpose(0, 1).flatten().cpu().numpy()
    return flat
