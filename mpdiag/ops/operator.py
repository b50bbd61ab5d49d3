"""A forward and a backward kernel made one differentiable PyTorch operator."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Shapes = Sequence[tuple[int, int]]
Function = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]
# (value, flat shapes, locations, weights) -> output, and with the output's gradient in front ->
# gradients of value, locations and weights.
Forward = Callable[[Tensor, Sequence[int], Tensor, Tensor], Tensor]
Backward = Callable[[Tensor, Tensor, Sequence[int], Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def operator(name: str, forward: Forward, backward: Backward) -> Function:
    """Register the operators `mpdiag::NAME` and `mpdiag::NAME_backward`.

    torch.compile takes each as one opaque call, without a break of the graph. There is no double
    backward: asking for it is a NotImplementedError.

    Args:
        name: of the operator; registered once in a process.
        forward: from contiguous tensors and the flat list (height, width, height, ...).
        backward: the same with the output's gradient in front.
    """

    @torch.library.custom_op(f"mpdiag::{name}", mutates_args=())
    def run(
        value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
    ) -> Tensor:
        return forward(
            value.contiguous(), spatial_shapes, locations.contiguous(), weights.contiguous()
        )

    @torch.library.custom_op(f"mpdiag::{name}_backward", mutates_args=())
    def run_backward(
        grad: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[int],
        locations: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return backward(
            grad.contiguous(),
            value.contiguous(),
            spatial_shapes,
            locations.contiguous(),
            weights.contiguous(),
        )

    @run.register_fake
    def shape(
        value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
    ) -> Tensor:
        batch, _, heads, channels = value.shape
        return value.new_empty(batch, locations.shape[1], heads * channels)

    @run_backward.register_fake
    def shapes(
        grad: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[int],
        locations: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        value, locations, weights = (x.new_empty(x.shape) for x in (value, locations, weights))
        return value, locations, weights

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        value, ctx.spatial_shapes, locations, weights = inputs
        ctx.save_for_backward(value, locations, weights)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = ctx.saved_tensors
        of_value, of_locations, of_weights = run_backward(
            grad, value, ctx.spatial_shapes, locations, weights
        )
        return of_value, None, of_locations, of_weights

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            "deformable attention has no second derivative in this backend; "
            'ask for plain PyTorch: mpdiag.ops.use_backend("plain")'
        )

    run.register_autograd(differentiate, setup_context=remember)
    run_backward.register_autograd(refuse)

    def call(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        flat = [size for shape in spatial_shapes for size in shape]
        output: Tensor = run(value, flat, locations, weights)
        return output

    return call
