"""TF32 in float32 matrix products and convolutions on NVIDIA GPUs since Ampere.

TF32 rounds the factors to 10 bits of mantissa and sums in float32. PyTorch uses it by default in
convolutions only.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mpdiag.choices import Tf32


def set_tf32(use: Tf32) -> None:
    """Use TF32 in nothing, in convolutions, or also in matrix products, in the whole process."""
    # The newer `fp32_precision` would make PyTorch raise an error in code that reads these.
    torch.backends.cudnn.allow_tf32 = use != "none"
    torch.backends.cuda.matmul.allow_tf32 = use == "all"


@contextmanager
def tf32(use: Tf32) -> Iterator[None]:
    """Use TF32 as `set_tf32` within the context, and as before after it."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    set_tf32(use)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
