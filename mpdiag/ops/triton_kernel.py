"""Multi-scale deformable attention on CUDA in Triton, for where deformops can't be installed.

A program takes a block of queries of one head of one image. Sums are in float32. The gradient of
the value is summed by atomic additions, whose order, and so rounding, changes from run to run.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mpdiag.errors import DependencyError
from mpdiag.ops.operator import Function, operator

TILE = 1024  # numbers of a block: queries times channels


def load() -> Function:
    """The operator for float32, bfloat16 and float16 values; DependencyError without a GPU.

    In Triton's interpreter (TRITON_INTERPRET=1) it runs on the CPU, to be tested.
    """
    if not (torch.cuda.is_available() or triton.knobs.runtime.interpret):
        raise DependencyError("PyTorch sees no CUDA device")
    return operator("ms_deform_attn_triton", _run_forward, _run_backward)


def _run_forward(
    value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    batch, _, heads, channels = value.shape
    output = value.new_empty(batch, locations.shape[1], heads * channels)
    _launch(_forward, value, shapes, locations, weights, output)
    return output


def _run_backward(
    grad: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    of_value = torch.zeros_like(value, dtype=torch.float32)
    of_locations, of_weights = torch.empty_like(locations), torch.empty_like(weights)
    _launch(_backward, value, shapes, locations, weights, grad, of_value, of_locations, of_weights)
    return of_value.to(value.dtype), of_locations, of_weights


def _launch(
    kernel: Any, value: Tensor, shapes: Sequence[int], locations: Tensor, *others: Tensor
) -> None:
    batch, cells, heads, channels = value.shape
    queries, _, levels, points = locations.shape[1:5]
    width = triton.next_power_of_2(channels)
    block = max(TILE // width, 1)
    grid = (triton.cdiv(queries, block), heads, batch)
    if locations.numel() == 0:
        return
    with torch.cuda.device_of(value):
        kernel[grid](
            value,
            _on_device(tuple(shapes), value.device),
            locations,
            *others,
            cells,
            queries,
            heads,
            channels,
            LEVELS=levels,
            POINTS=points,
            BLOCK=block,
            WIDTH=width,
            enable_fp_fusion=True,
        )


@lru_cache(maxsize=64)
def _on_device(shapes: tuple[int, ...], device: torch.device) -> Tensor:
    """Kept, since each copy to the GPU would wait for it."""
    return torch.tensor(shapes, dtype=torch.int32, device=device)


@triton.jit
def _pixel(location, size):  # type: ignore[no-untyped-def]
    """From [0, 1] to pixels, rounded as PyTorch's grid_sample rounds."""
    return tl.fma((2 * location - 1) + 1, size / 2, -0.5)


@triton.jit
def _point(locations, sample, valid, height, width):  # type: ignore[no-untyped-def]
    """Row and column of the first of four cells, how far below and right of it, and whether any is
    seen; and NaN for a location that isn't a number, else 0."""
    x = _pixel(tl.load(locations + 2 * sample, mask=valid, other=0.0), width.to(tl.float32))
    y = _pixel(tl.load(locations + 2 * sample + 1, mask=valid, other=0.0), height.to(tl.float32))
    poison = tl.where(x == x, 0.0, x) + tl.where(y == y, 0.0, y)
    seen = valid & (x >= -1) & (y >= -1) & (x < width) & (y < height)
    x, y = tl.where(seen, x, 0.0), tl.where(seen, y, 0.0)
    left, top = tl.floor(x), tl.floor(y)
    return top.to(tl.int32), left.to(tl.int32), y - top, x - left, seen, poison


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    value,
    shapes,
    locations,
    weights,
    output,
    cells,
    queries,
    heads,
    channels,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """See `_run_forward`; LEVELS, POINTS: of a query; BLOCK: queries; WIDTH: channels or more."""
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, WIDTH)
    valid, kept = query < queries, channel < channels
    reader = (image * queries + query) * heads + head
    total = tl.zeros((BLOCK, WIDTH), tl.float32)
    first = image * cells
    for level in range(LEVELS):
        height, width = tl.load(shapes + 2 * level), tl.load(shapes + 2 * level + 1)
        for point in range(POINTS):
            sample = (reader * LEVELS + level) * POINTS + point
            row, column, y, x, seen, poison = _point(locations, sample, valid, height, width)
            weight = tl.load(weights + sample, mask=valid, other=0.0) + poison
            for corner in tl.static_range(4):
                below, right = corner // 2, corner % 2
                at_row, at_column = row + below, column + right
                inside = seen & (at_row >= 0) & (at_row < height)
                inside &= (at_column >= 0) & (at_column < width)
                share = (y if below else 1 - y) * (x if right else 1 - x) * weight
                cell = ((first + at_row * width + at_column) * heads + head) * channels
                read = tl.load(
                    value + cell[:, None] + channel[None, :],
                    mask=inside[:, None] & kept[None, :],
                    other=0.0,
                )
                total += share[:, None] * read.to(tl.float32)
        first += height * width
    tl.store(
        output + (reader * channels)[:, None] + channel[None, :],
        total.to(output.dtype.element_ty),
        mask=valid[:, None] & kept[None, :],
    )


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    value,
    shapes,
    locations,
    weights,
    grad,
    of_value,
    of_locations,
    of_weights,
    cells,
    queries,
    heads,
    channels,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """See `_run_backward`; `of_value` comes as zeros, in float32."""
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, WIDTH)
    valid, kept = query < queries, channel < channels
    reader = (image * queries + query) * heads + head
    upstream = tl.load(
        grad + (reader * channels)[:, None] + channel[None, :],
        mask=valid[:, None] & kept[None, :],
        other=0.0,
    ).to(tl.float32)
    first = image * cells
    for level in range(LEVELS):
        height, width = tl.load(shapes + 2 * level), tl.load(shapes + 2 * level + 1)
        for point in range(POINTS):
            sample = (reader * LEVELS + level) * POINTS + point
            row, column, y, x, seen, poison = _point(locations, sample, valid, height, width)
            weight = tl.load(weights + sample, mask=valid, other=0.0)
            of_weight, of_x, of_y = poison, poison, poison
            for corner in tl.static_range(4):
                below, right = corner // 2, corner % 2
                at_row, at_column = row + below, column + right
                inside = seen & (at_row >= 0) & (at_row < height)
                inside &= (at_column >= 0) & (at_column < width)
                down, across = (y if below else 1 - y), (x if right else 1 - x)
                cell = ((first + at_row * width + at_column) * heads + head) * channels
                where = cell[:, None] + channel[None, :]
                mask = inside[:, None] & kept[None, :]
                read = tl.load(value + where, mask=mask, other=0.0).to(tl.float32)
                dot = tl.sum(read * upstream, 1)
                of_weight += down * across * dot
                of_x += (down if right else -down) * dot
                of_y += (across if below else -across) * dot
                share = (down * across * weight)[:, None]
                tl.atomic_add(of_value + where, share * upstream, mask=mask, sem="relaxed")
            tl.store(of_weights + sample, of_weight, mask=valid)
            tl.store(of_locations + 2 * sample, of_x * weight * width, mask=valid)
            tl.store(of_locations + 2 * sample + 1, of_y * weight * height, mask=valid)
        first += height * width
