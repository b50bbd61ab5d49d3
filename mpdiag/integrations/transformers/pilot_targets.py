"""GT of the MP part: checked, padded to one size, and without padding labels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from mpdiag.integrations.valid_targets import valid_targets
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
    targets = valid_targets(targets, num_classes)
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
    return padded
