"""Problems of deformable attention, and a reference implementation by loops in float64."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def _log_level() -> None:
    """Let modules log again after a test of `mpdiag bench`, which raises the level."""
    logging.getLogger("mpdiag.ops").setLevel(logging.NOTSET)


@dataclass
class AttentionProblem:
    """Arguments of ms_deform_attn in float64, and a gradient of the output."""

    value: Tensor
    shapes: list[tuple[int, int]]
    locations: Tensor
    weights: Tensor
    upstream: Tensor

    def run(self, function: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Return output and gradients of value, locations and weights for a value of `dtype`."""
        other = torch.promote_types(dtype, torch.float32)
        value = self.value.clone().to(dtype).requires_grad_()
        locations, weights = (
            x.clone().to(other).requires_grad_() for x in (self.locations, self.weights)
        )
        output = function(value, self.shapes, locations, weights)
        assert output.dtype == dtype
        output.backward(self.upstream.to(dtype))
        return [output.detach(), value.grad, locations.grad, weights.grad]

    def solve(self) -> list[Tensor]:
        """Compute output and gradients by loops, with bilinear sampling and zeros outside."""
        value, locations, weights = self.value, self.locations, self.weights
        batch, queries, heads, _, points = weights.shape
        output = torch.zeros(batch, queries, heads, value.shape[3]).double()
        grads = [torch.zeros_like(x) for x in (value, locations, weights)]
        upstream = self.upstream.view_as(output)
        for b, q, h, p in torch.cartesian_prod(
            *map(torch.arange, (batch, queries, heads, points))
        ).tolist():
            start = 0
            for level, (height, width) in enumerate(self.shapes):
                index = (b, q, h, level, p)
                x = locations[index][0].item() * width - 0.5
                y = locations[index][1].item() * height - 0.5
                for column in (int(x // 1), int(x // 1) + 1):
                    for row in (int(y // 1), int(y // 1) + 1):
                        if not (0 <= column < width and 0 <= row < height):
                            continue
                        cell = (b, start + row * width + column, h)
                        across, down = 1 - abs(x - column), 1 - abs(y - row)
                        output[b, q, h] += weights[index] * across * down * value[cell]
                        grads[0][cell] += weights[index] * across * down * upstream[b, q, h]
                        dot = upstream[b, q, h] @ value[cell]
                        slope_x = width if column > x else -width
                        slope_y = height if row > y else -height
                        grads[1][index][0] += weights[index] * slope_x * down * dot
                        grads[1][index][1] += weights[index] * across * slope_y * dot
                        grads[2][index] += across * down * dot
                start += height * width
        return [output.flatten(2), *grads]


def problem(channels: int = 8, queries: int = 5, heads: int = 2) -> AttentionProblem:
    """Create two images with locations in -0.3..1.3 and at the border, none near a cell centre."""
    generator = torch.Generator().manual_seed(channels)
    shapes = [(3, 4), (1, 6), (5, 2)]
    cells = sum(height * width for height, width in shapes)
    batch, points = 2, 3
    sizes = torch.tensor([(width, height) for height, width in shapes]).double()[:, None]
    uniform = torch.rand(batch, queries, heads, 3, points, 2, generator=generator).double()
    pixels = (uniform * 1.6 - 0.3) * sizes - 0.5
    pixels = pixels.floor() + (pixels - pixels.floor()).clamp(0.05, 0.95)  # away from the kinks
    pixels[0, 0, :, :, 0] = -0.95  # 0.05 of the outermost cell
    pixels[0, 1, :, :, 0] = (sizes - 0.05).squeeze(1)
    return AttentionProblem(
        torch.randn(batch, cells, heads, channels, generator=generator).double(),
        shapes,
        (pixels + 0.5) / sizes,
        torch.rand(batch, queries, heads, 3, points, generator=generator).double(),
        torch.randn(batch, queries, heads * channels, generator=generator).double(),
    )


@pytest.fixture
def make_problem() -> Callable[..., AttentionProblem]:
    return problem
