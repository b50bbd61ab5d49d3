"""GT of the MP part: checked, padded to one size, and without padding labels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from mpdiag.errors import DataError
from mpdiag.matching import Target
from mpdiag.models.mask_noise import PREDICTION_STRIDE


def pilot_targets(
    targets: Sequence[Target], num_classes: int, device: torch.device
) -> list[Target]:
    """Return the GT of a batch for mask piloting.

    Masks are padded on the right and the bottom to the largest of the batch, as in the losses of
    transformers, and to a multiple of 4. Padding labels (`num_classes`, which is no-object) are
    left out.

    Args:
        targets: GT with masks of any size.
        num_classes: K.
        device: device of the result.

    Raises:
        DataError: an image has more masks than labels or fewer, or a label is not a class.
    """
    for image, target in enumerate(targets):
        if len(target["masks"]) != len(target["labels"]):
            raise DataError(
                f"image {image} of the batch: {len(target['masks'])} mask_labels, but "
                f"{len(target['labels'])} class_labels; give one label for each mask"
            )
    height, width = (
        -(-max(target["masks"].shape[axis] for target in targets) // PREDICTION_STRIDE)
        * PREDICTION_STRIDE
        for axis in (-2, -1)
    )
    padded = []
    for target in targets:
        masks = target["masks"].to(device)
        masks = F.pad(masks, (0, width - masks.shape[-1], 0, height - masks.shape[-2]))
        padded.append(Target(labels=target["labels"].to(device), masks=masks))
    return _without_padding(padded, num_classes)


def _without_padding(targets: list[Target], num_classes: int) -> list[Target]:
    """Return the targets whose label is not `num_classes`; DataError for other labels."""
    labels = torch.cat([target["labels"] for target in targets])
    if not len(labels):
        return targets
    low, high = torch.stack([labels.amin(), labels.amax()]).tolist()
    if low < 0 or high > num_classes:
        raise DataError(
            f"class_labels: {low if low < 0 else high} is not a class of the model; give 0 to "
            f"{num_classes - 1}, and {num_classes} for padding"
        )
    if high < num_classes:
        return targets
    known = [target["labels"] < num_classes for target in targets]
    return [
        Target(labels=target["labels"][keep], masks=target["masks"][keep])
        for target, keep in zip(targets, known, strict=True)
    ]
