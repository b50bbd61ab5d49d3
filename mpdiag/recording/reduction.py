"""Reductions that make tensors smaller while they are recorded."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from mpdiag.errors import RecordingError

Reduction = Callable[[str, Tensor], Tensor]
"""Function from a canonical name and the tensor of one layer to the tensor to keep."""


def _binary(name: str, tensor: Tensor) -> Tensor:
    return tensor > 0 if _is_mask(name) else tensor


def _host(name: str, tensor: Tensor) -> Tensor:
    return tensor.cpu()


def _mean_of_heads(name: str, tensor: Tensor) -> Tensor:
    return tensor.mean(1, keepdim=True) if name == "cross_attention" else tensor


def _pool(size: int) -> Reduction:
    def pool(name: str, tensor: Tensor) -> Tensor:
        if not _is_mask(name):
            return tensor
        return F.avg_pool2d(tensor, size, ceil_mode=True, count_include_pad=False)

    return pool


_NAMED = {"binary": _binary, "host": _host, "mean-heads": _mean_of_heads}


def compose_reductions(steps: str | Reduction | Sequence[str | Reduction]) -> Reduction:
    """Return one reduction that applies the steps in order.

    A step is `binary` (masks as bool, True where the logit is > 0), `pool:K` (mask logits averaged
    over K x K cells), `mean-heads` (cross-attention averaged over heads), `host` (tensors moved
    to the CPU), or a function.

    Raises:
        RecordingError: a step has an unknown name.
    """
    if isinstance(steps, str) or callable(steps):
        steps = [steps]
    chain = [_parse(step) if isinstance(step, str) else step for step in steps]

    def reduce(name: str, tensor: Tensor) -> Tensor:
        for step in chain:
            tensor = step(name, tensor)
        return tensor

    return reduce


def _parse(text: str) -> Reduction:
    kind, _, size = text.partition(":")
    if kind == "pool" and size.isdecimal() and int(size) > 0:
        return _pool(int(size))
    if text in _NAMED:
        return _NAMED[text]
    known = ", ".join(sorted(_NAMED))
    raise RecordingError(f"reduce={text!r}: unknown; use {known}, or pool:K as in pool:4")


def _is_mask(name: str) -> bool:
    return name.endswith("mask_logits")
