"""Binary cross-entropy and dice loss of mask logits.

On the CPU, C++ (`mask_kernel.cpp`) computes both in one pass over the logits and their gradients in
another. PyTorch is used elsewhere.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.ops.mask_kernel import mask_kernel_for


def mask_losses(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the binary cross-entropy, averaged over P points, and the dice loss of each row.

    The dice loss is 1 - (2 * intersection + 1) / (sum + 1), as in Mask2Former.

    Args:
        logits: (R, P).
        truth: (R, P) in 0..1, with the dtype of the logits.

    Returns:
        Two (R,) tensors. Their second derivative in the logits is not available.
    """
    if logits.shape != truth.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and truth {tuple(truth.shape)} differ")
    if logits.dtype == torch.float32 and mask_kernel_for(logits) is not None:
        cross_entropy, dice = _CompiledLosses.apply(logits, truth)
        return cross_entropy, dice
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
    probability = logits.sigmoid()
    overlap = 2 * (probability * truth).sum(1) + 1
    return cross_entropy, 1 - overlap / (probability.sum(1) + truth.sum(1) + 1)


class _CompiledLosses(torch.autograd.Function):
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
        loss_grads = [grad.contiguous() for grad in grads]
        _call("mask_losses_backward", logits, truth, fraction, *loss_grads, gradient)
        return gradient, None


def _call(name: str, logits: Tensor, *tensors: Tensor) -> None:
    """Call a function of the C++ file on (R, P) logits and further tensors."""
    sizes = (*logits.shape, torch.get_num_threads())
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (logits, *tensors)]
    function = getattr(mask_kernel_for(logits), name)
    function(*map(ctypes.c_int64, sizes), *pointers)
