"""Checks of the GT of a batch against the classes of a model."""

import logging
from collections.abc import Sequence

import torch

from mpdiag.errors import DataError
from mpdiag.matching import Target

_LOG = logging.getLogger(__name__)


def valid_targets(targets: Sequence[Target], num_classes: int) -> list[Target]:
    """Return the GT of a batch without padding, whose label is `num_classes` (no-object).

    Padding with a mask gives a warning: with labels from 1, the last class has this label.

    Args:
        targets: GT of each image.
        num_classes: K.

    Raises:
        DataError: labels are not (G,), masks are not (G, H, W), or a label is not 0 to K.
    """
    for image, target in enumerate(targets):
        labels, masks = target["labels"], target["masks"]
        if labels.ndim != 1 or masks.ndim != 3 or len(labels) != len(masks):
            raise DataError(
                f"image {image} of the batch: labels of shape {tuple(labels.shape)}, but masks of "
                f"shape {tuple(masks.shape)}; give labels (G,) and masks (G, H, W)"
            )
    counts = [len(target["labels"]) for target in targets]
    if not any(counts):
        return list(targets)
    # The only transfer from a GPU.
    labels = torch.cat([target["labels"] for target in targets if len(target["labels"])]).cpu()
    valid = []
    for image, (target, own) in enumerate(zip(targets, labels.split(counts), strict=True)):
        wrong = own[(own < 0) | (own > num_classes)]
        if len(wrong):
            raise DataError(
                f"image {image} of the batch: label {int(wrong[0])} is not a class of the model; "
                f"give 0 to {num_classes - 1}, and {num_classes} for padding"
            )
        keep = own < num_classes
        if not keep.all():
            if target["masks"][~keep].any():
                _LOG.warning(
                    "image %d of the batch: GT with a mask is left out, because %d is the label of "
                    "no-object; if your labels start at 1, subtract 1",
                    image,
                    num_classes,
                )
            target = Target(labels=target["labels"][keep], masks=target["masks"][keep])
        valid.append(target)
    return valid
