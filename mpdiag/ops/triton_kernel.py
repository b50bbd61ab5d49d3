"""Multi-scale deformable attention on CUDA in Triton, used if deformops is not available.

A program computes a block of queries of one head of one image. Sums are in float32. The gradient of
the value is summed by atomic additions, so its rounding differs between runs.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mpdiag.errors import DependencyError
from mpdiag.ops.custom_operator import AttentionFunction, register_operator
from mpdiag.ops.triton_driver import require_triton_driver

# Elements of a block (queries times channels) and warps. Triton measures them when a kernel first
# runs for a number of channels and a dtype, on a small or a large problem, and stores the choice in
# its cache directory.
CONFIGS = [
    triton.Config({"TILE": tile}, num_warps=warps) for tile in (1024, 512, 2048) for warps in (4, 8)
]
if triton.knobs.runtime.interpret:  # cannot measure times
    CONFIGS = CONFIGS[:1]
autotune = partial(
    triton.autotune,
    configs=CONFIGS,
    key=["channels", "LEVELS", "POINTS", "LARGE"],
    cache_results=True,
)
LARGE_QUERIES = 4096  # of all images: with fewer, the times of all configurations are equal


def load() -> AttentionFunction:
    """Return the operator for float32, bfloat16 and float16 values.

    Triton's interpreter (TRITON_INTERPRET=1) runs it on the CPU, for tests.

    Raises:
        DependencyError: there is no GPU, or Triton cannot use it.
    """
    if not triton.knobs.runtime.interpret:
        if not torch.cuda.is_available():
            raise DependencyError("no CUDA device is available to PyTorch")
        require_triton_driver()
    return register_operator("ms_deform_attn_triton", _run_forward, _run_backward)


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
    grad_value = torch.zeros_like(value, dtype=torch.float32)
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    _launch(
        _backward, value, shapes, locations, weights, grad, grad_value, grad_locations, grad_weights
    )
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _launch(
    kernel: Any, value: Tensor, shapes: Sequence[int], locations: Tensor, *others: Tensor
) -> None:
    batch, cells, heads, channels = value.shape
    queries, _, levels, points = locations.shape[1:5]
    width = triton.next_power_of_2(channels)

    def grid(chosen: dict[str, Any]) -> tuple[int, int, int]:
        return triton.cdiv(queries, max(chosen["TILE"] // width, 1)), heads, batch

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
            WIDTH=width,
            LARGE=batch * queries >= LARGE_QUERIES,
            enable_fp_fusion=True,
        )


@lru_cache(maxsize=64)
def _on_device(shapes: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the shapes on the device; cached, because each copy synchronises with the GPU."""
    return torch.tensor(shapes, dtype=torch.int32, device=device)


@triton.jit
def _pixel(location, size):  # type: ignore[no-untyped-def]
    """Convert [0, 1] to pixels with the rounding of PyTorch's grid_sample."""
    return tl.fma((2 * location - 1) + 1, size / 2, -0.5)


@triton.jit
def _point(locations, sample, valid, height, width):  # type: ignore[no-untyped-def]
    """Return row and column of the upper left of four cells, offset (y, x) of the point from it,
    whether any cell is inside, and NaN if the location is NaN or infinite, else 0."""
    x = _pixel(tl.load(locations + 2 * sample, mask=valid, other=0.0), width.to(tl.float32))
    y = _pixel(tl.load(locations + 2 * sample + 1, mask=valid, other=0.0), height.to(tl.float32))
    finite = (tl.abs(x) < float("inf")) & (tl.abs(y) < float("inf"))
    nan = tl.where(finite, 0.0, float("nan"))
    seen = valid & (x >= -1) & (y >= -1) & (x < width) & (y < height)
    x, y = tl.where(seen, x, 0.0), tl.where(seen, y, 0.0)
    left, top = tl.floor(x), tl.floor(y)
    return top.to(tl.int32), left.to(tl.int32), y - top, x - left, seen, nan


@autotune()  # type: ignore[untyped-decorator]
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
    WIDTH: tl.constexpr,
    LARGE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Compute `_run_forward` for some queries; WIDTH is the power of two from `channels`."""
    BLOCK: tl.constexpr = TILE // WIDTH if TILE > WIDTH else 1
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, WIDTH)
    valid, kept = query < queries, channel < channels
    query_head = (image * queries + query) * heads + head
    total = tl.zeros((BLOCK, WIDTH), tl.float32)
    first = image * cells
    for level in range(LEVELS):
        height, width = tl.load(shapes + 2 * level), tl.load(shapes + 2 * level + 1)
        for point in range(POINTS):
            sample = (query_head * LEVELS + level) * POINTS + point
            row, column, y, x, seen, nan = _point(locations, sample, valid, height, width)
            weight = tl.load(weights + sample, mask=valid, other=0.0) + nan
            for corner in tl.static_range(4):
                below, right = corner // 2, corner % 2
                at_row, at_column = row + below, column + right
                inside = seen & (at_row >= 0) & (at_row < height)
                inside &= (at_column >= 0) & (at_column < width)
                share = (y if below else 1 - y) * (x if right else 1 - x) * weight
                cell = ((first + at_row * width + at_column) * heads + head) * channels
                sampled = tl.load(
                    value + cell[:, None] + channel[None, :],
                    mask=inside[:, None] & kept[None, :],
                    other=0.0,
                )
                total += share[:, None] * sampled.to(tl.float32)
        first += height * width
    tl.store(
        output + (query_head * channels)[:, None] + channel[None, :],
        total.to(output.dtype.element_ty),
        mask=valid[:, None] & kept[None, :],
    )


@autotune(reset_to_zero=["grad_value"])  # type: ignore[untyped-decorator]
@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    value,
    shapes,
    locations,
    weights,
    grad,
    grad_value,
    grad_locations,
    grad_weights,
    cells,
    queries,
    heads,
    channels,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    WIDTH: tl.constexpr,
    LARGE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Compute `_run_backward` for some queries; `grad_value` is float32 zeros."""
    BLOCK: tl.constexpr = TILE // WIDTH if TILE > WIDTH else 1
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, WIDTH)
    valid, kept = query < queries, channel < channels
    query_head = (image * queries + query) * heads + head
    upstream = tl.load(
        grad + (query_head * channels)[:, None] + channel[None, :],
        mask=valid[:, None] & kept[None, :],
        other=0.0,
    ).to(tl.float32)
    first = image * cells
    for level in range(LEVELS):
        height, width = tl.load(shapes + 2 * level), tl.load(shapes + 2 * level + 1)
        for point in range(POINTS):
            sample = (query_head * LEVELS + level) * POINTS + point
            row, column, y, x, seen, nan = _point(locations, sample, valid, height, width)
            weight = tl.load(weights + sample, mask=valid, other=0.0)
            grad_weight, grad_x, grad_y = nan, nan, nan
            for corner in tl.static_range(4):
                below, right = corner // 2, corner % 2
                at_row, at_column = row + below, column + right
                inside = seen & (at_row >= 0) & (at_row < height)
                inside &= (at_column >= 0) & (at_column < width)
                down, across = (y if below else 1 - y), (x if right else 1 - x)
                cell = ((first + at_row * width + at_column) * heads + head) * channels
                where = cell[:, None] + channel[None, :]
                mask = inside[:, None] & kept[None, :]
                sampled = tl.load(value + where, mask=mask, other=0.0).to(tl.float32)
                dot = tl.sum(sampled * upstream, 1)
                grad_weight += down * across * dot
                grad_x += (down if right else -down) * dot
                grad_y += (across if below else -across) * dot
                share = (down * across * weight)[:, None]
                tl.atomic_add(grad_value + where, share * upstream, mask=mask, sem="relaxed")
            tl.store(grad_weights + sample, grad_weight, mask=valid)
            tl.store(grad_locations + 2 * sample, grad_x * weight * width, mask=valid)
            tl.store(grad_locations + 2 * sample + 1, grad_y * weight * height, mask=valid)
        first += height * width
