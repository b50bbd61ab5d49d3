"""ms_deform_attn against loops over the definition."""

import torch

from mpdiag.ops import ms_deform_attn


def read(level: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Bilinear value of (h, w, D) at pixel coordinates, zero outside."""
    height, width = level.shape[:2]
    total = torch.zeros(level.shape[2], dtype=level.dtype)
    left, top = int(x // 1), int(y // 1)
    for column in (left, left + 1):
        for row in (top, top + 1):
            if 0 <= column < width and 0 <= row < height:
                total += level[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


def test_equals_the_definition_also_outside() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (2, 5)]
    cells = sum(h * w for h, w in shapes)
    batch, queries, heads, channels, points = 2, 3, 2, 4, 3
    value = torch.rand(batch, cells, heads, channels, generator=generator, dtype=torch.float64)
    where = (
        torch.rand(batch, queries, heads, 2, points, 2, generator=generator).double() * 1.6 - 0.3
    )
    weights = torch.rand(batch, queries, heads, 2, points, generator=generator).double()
    expected = torch.zeros(batch, queries, heads, channels, dtype=torch.float64)
    for b, q, h in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads))).tolist():
        start = 0
        for index, (height, width) in enumerate(shapes):
            level = value[b, start : start + height * width, h].view(height, width, channels)
            start += height * width
            for p in range(points):
                x, y = where[b, q, h, index, p].tolist()
                read_here = read(level, x * width - 0.5, y * height - 0.5)
                expected[b, q, h] += weights[b, q, h, index, p] * read_here
    found = ms_deform_attn(value, shapes, where, weights)
    torch.testing.assert_close(found, expected.flatten(2))
