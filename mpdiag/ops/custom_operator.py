"""Register a forward and a backward kernel as one differentiable PyTorch operator."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

SpatialShapes = Sequence[tuple[int, int]]
AttentionFunction = Callable[[Tensor, SpatialShapes, Tensor, Tensor], Tensor]
# Forward: (value, flat shapes, locations, weights) -> output. Backward: (gradient of the output,
# value, flat shapes, locations, weights) -> gradients of value, locations and weights.
Forward = Callable[[Tensor, Sequence[int], Tensor, Tensor], Tensor]
Backward = Callable[[Tensor, Tensor, Sequence[int], Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def register_operator(name: str, forward: Forward, backward: Backward) -> AttentionFunction:
    """Register the operators `mpdiag::NAME` and `mpdiag::NAME_backward`.

    torch.compile treats each as one opaque call, without a graph break. A double backward raises
    NotImplementedError.

    Args:
        name: name of the operator; it can be registered once per process.
        forward: kernel for contiguous tensors and a flat list of shapes (height, width, ...).
        backward: kernel of the gradients, with the gradient of the output as first argument.

    Returns:
        The operator with the arguments of `ms_deform_attn`.
    """
    run = torch.library.custom_op(f"mpdiag::{name}", forward, mutates_args=())
    run_backward = torch.library.custom_op(f"mpdiag::{name}_backward", backward, mutates_args=())

    @run.register_fake
    def fake_forward(
        value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
    ) -> Tensor:
        batch, _, heads, channels = value.shape
        return value.new_empty(batch, locations.shape[1], heads * channels)

    @run_backward.register_fake
    def fake_backward(
        grad: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return torch.empty_like(value), torch.empty_like(locations), torch.empty_like(weights)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        value, ctx.shapes, locations, weights = inputs
        ctx.save_for_backward(value, locations, weights)

    def call_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = ctx.saved_tensors
        grad_value, grad_locations, grad_weights = run_backward(
            grad.contiguous(), value, ctx.shapes, locations, weights
        )
        return grad_value, None, grad_locations, grad_weights

    def double_backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            "deformable attention has no second derivative in this backend; "
            'use the backend of plain PyTorch: mpdiag.ops.use_backend("plain")'
        )

    run.register_autograd(call_backward, setup_context=setup_context)
    run_backward.register_autograd(double_backward)

    def call(
        value: Tensor, spatial_shapes: SpatialShapes, locations: Tensor, weights: Tensor
    ) -> Tensor:
        flat = [size for shape in spatial_shapes for size in shape]
        output: Tensor = run(value.contiguous(), flat, locations.contiguous(), weights.contiguous())
        return output

    return call
