"""Autocast of the pretended CUDA device: CUDA's main lists of operators, no cache of weights."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

KEY = "AutocastPrivateUse1"
OPERATORS = {  # requested dtype, float32, widest dtype of the arguments
    "low": "conv1d conv2d conv3d conv_transpose2d linear matmul mm bmm mv addmm addmv baddbmm "
    "addbmm prelu scaled_dot_product_attention",
    "float32": "acos asin cosh exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow "
    "softplus layer_norm native_layer_norm group_norm nll_loss nll_loss2d cross_entropy_loss "
    "l1_loss smooth_l1_loss huber_loss mse_loss binary_cross_entropy_with_logits cdist logsumexp "
    "softmax log_softmax cumsum cumprod prod sum norm",
    "widest": "grid_sampler index_put addcmul addcdiv atan2 dot tensordot scatter_add",
}


def register_autocast(device: str, tensor_type: type[Tensor]) -> list[torch.library.Library]:
    """Register the casts of `tensor_type` on a device; they last as long as the result."""
    # PyTorch asks for these dtypes wherever autocast may be needed, also without the device.
    getattr(torch, device).get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    rest, lists = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, KEY)
    for kind, names in OPERATORS.items():
        packets = [getattr(torch.ops.aten, name) for name in names.split()]
        for op in (getattr(packet, one) for packet in packets for one in packet.overloads()):
            if not op._schema.is_mutable:
                kernel = casting_kernel(op, kind, device, tensor_type)
                lists.impl(op.name().removeprefix("aten::"), kernel, KEY)
    return [rest, lists]


def casting_kernel(
    op: Any, kind: str, device: str, tensor_type: type[Tensor]
) -> Callable[..., Any]:
    key = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, KEY))

    def castable(x: Any) -> bool:
        is_real = isinstance(x, tensor_type) and x.is_floating_point()
        return is_real and x.dtype != torch.float64

    def kernel(*args: Any, **kwargs: Any) -> Any:
        types = [x.dtype for x in tree_leaves((args, kwargs)) if castable(x)]
        dtype = torch.get_autocast_dtype(device) if kind == "low" else torch.float32
        if kind == "widest" and types:
            dtype = max(types, key=lambda one: one.itemsize)

        def cast(x: Any) -> Any:
            return x.to(dtype) if castable(x) else x

        with torch._C._ExcludeDispatchKeyGuard(key):
            return op(*tree_map(cast, args), **tree_map(cast, kwargs))

    return kernel


@contextmanager
def autocast_of_cuda(device: str) -> Iterator[None]:
    """Let autocast of "cuda" act on another device."""
    init = torch.autocast.__init__

    def autocast_init(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        init(self, device_type, *args, **kwargs)
        self.device = device if device_type == "cuda" else device_type

    def renamed(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: function(*(device if x == "cuda" else x for x in args))

    with ExitStack() as stack:
        for name in ("is_autocast_enabled", "get_autocast_dtype"):
            stack.enter_context(patch.object(torch, name, renamed(getattr(torch, name))))
        stack.enter_context(patch.object(torch.autocast, "__init__", autocast_init))
        yield
