"""Cross-entropy and dice of masks against their truth, which each read the same logits.

On the CPU both in one pass in C++ (`mask_kernel.cpp`), and their gradients in another; by PyTorch
elsewhere.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.ops.mask_sums import library_for


def mask_losses(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy, averaged over P points, and dice loss with 1 added above and below.

    Args:
        logits: (R, P).
        truth: (R, P) in 0..1, of the logits' dtype.

    Returns:
        Two (R,) tensors, differentiable once in the logits.
    """
    if logits.shape != truth.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and truth {tuple(truth.shape)} differ")
    if logits.dtype == torch.float32 and library_for(logits) is not None:
        cross_entropy, dice = _Compiled.apply(logits, truth)
        return cross_entropy, dice
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
    probability = logits.sigmoid()
    overlap = 2 * (probability * truth).sum(1) + 1
    return cross_entropy, 1 - overlap / (probability.sum(1) + truth.sum(1) + 1)


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        logits, truth = logits.contiguous(), truth.contiguous()
        cross_entropy, dice, fraction = (logits.new_empty(len(logits), *n) for n in ((), (), (2,)))
        _call("mask_losses", logits, truth, cross_entropy, dice, fraction)
        ctx.save_for_backward(logits, truth, fraction)
        return cross_entropy, dice

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, truth, fraction = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        of_losses = [grad.contiguous() for grad in grads]
        _call("mask_losses_backward", logits, truth, fraction, *of_losses, gradient)
        return gradient, None


def _call(name: str, logits: Tensor, *tensors: Tensor) -> None:
    """Call a function of the C++ file on (R, P) logits and what belongs to them."""
    sizes = (*logits.shape, torch.get_num_threads())
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (logits, *tensors)]
    function = getattr(library_for(logits), name)
    function(*map(ctypes.c_int64, sizes), *pointers)
