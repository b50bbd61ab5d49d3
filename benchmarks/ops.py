"""`mpdiag bench ops`: all backends of deformable attention at the sizes of the pixel decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from benchmarks.timing import copy_bandwidth, time_interleaved
from mpdiag.errors import DependencyError
from mpdiag.ops import cell_centers, ms_deform_attn, use_backend
from mpdiag.ops.backends import BACKENDS, unavailable_reason

HEADS, CHANNELS, POINTS = 8, 32, 4  # of the published models
STRIDES = (32, 16, 8)
SIZES = ("512x512", "800x1333", "1024x1024")
SPREAD = 3.0  # standard deviation of the sampling offsets, in cells
REPEATS = {"cpu": 5, "cuda": 50}


@dataclass(frozen=True)
class OpsTiming:
    """Median seconds of one backend on one problem, and the minimum memory traffic in bytes."""

    size: str
    job: str
    backend: str
    seconds: float
    bytes: int


@dataclass(frozen=True)
class OpsResults:
    """Timings of all backends, the machine, and why some backends are unavailable."""

    device: str
    torch: str
    threads: int
    dtype: str
    batch: int
    repeats: int
    bandwidth: float  # bytes per second of a copy
    timings: list[OpsTiming]
    unavailable: dict[str, str]


@dataclass(frozen=True)
class AttentionProblem:
    """Arguments of ms_deform_attn and the gradient of its output."""

    value: Tensor
    shapes: list[tuple[int, int]]
    locations: Tensor
    weights: Tensor
    upstream: Tensor

    def forward(self) -> Tensor:
        """Run without gradients, as at inference."""
        with torch.no_grad():
            return ms_deform_attn(self.value, self.shapes, self.locations, self.weights)

    def forward_and_backward(self) -> tuple[Tensor, ...]:
        """Return the gradients of value, locations and weights."""
        inputs = [x.detach().requires_grad_() for x in (self.value, self.locations, self.weights)]
        output = ms_deform_attn(inputs[0], self.shapes, inputs[1], inputs[2])
        return torch.autograd.grad(output, inputs, self.upstream)

    def bytes(self, backward: bool) -> int:
        """Return the minimum traffic: each input read once, each output written once."""
        inputs = sum(_bytes(x) for x in (self.value, self.locations, self.weights))
        output = _bytes(self.upstream)
        return inputs + output + backward * (2 * inputs + output)


def encoder_problem(
    height: int, width: int, batch: int, dtype: torch.dtype, device: torch.device
) -> AttentionProblem:
    """Create the problem of an encoder layer of the pixel decoder, where all cells are queries.

    Sampling locations are near the query's own, as in trained models.
    """
    generator = torch.Generator(device).manual_seed(0)
    shapes = [(-(-height // 32) * 32 // s, -(-width // 32) * 32 // s) for s in STRIDES]
    reference = torch.cat([cell_centers(*shape, device) for shape in shapes])
    cells, levels = len(reference), len(shapes)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    sizes = torch.tensor([(w, h) for h, w in shapes], device=device)
    offsets = SPREAD * draw(batch, cells, HEADS, levels, POINTS, 2) / sizes[:, None]
    weights = draw(batch, cells, HEADS, levels * POINTS).softmax(-1)
    return AttentionProblem(
        draw(batch, cells, HEADS, CHANNELS).to(dtype),
        shapes,
        reference[:, None, None, None] + offsets,
        weights.unflatten(-1, (levels, POINTS)),
        draw(batch, cells, HEADS * CHANNELS).to(dtype),
    )


def bench_ops(
    sizes: Sequence[tuple[int, int]],
    *,
    device: str,
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
    repeats: int | None = None,
) -> OpsResults:
    """Time all backends that run on a device, in turn.

    Args:
        sizes: (height, width) of images in pixels, padded to multiples of 32 as by the model.
        device: "cpu" or "cuda".
        dtype: dtype of the value; locations and weights are float32.
        batch: batch size.
        repeats: number of timed rounds, by default 5 on a CPU and 50 on a GPU.

    Raises:
        DependencyError: the device is not available.
    """
    if device not in REPEATS or (device == "cuda" and not torch.cuda.is_available()):
        raise DependencyError(
            f"--device {device}: not available; use cpu, or cuda on a machine with a GPU"
        )
    torch_device = torch.device(device)
    repeats = repeats or REPEATS[torch_device.type]
    reasons = {b.name: unavailable_reason(b, torch_device.type, dtype) for b in BACKENDS}
    probe = encoder_problem(32, 32, batch, dtype, torch_device)
    for name in [name for name, reason in reasons.items() if reason is None]:
        reasons[name] = _error(_with_backend(name, probe.forward_and_backward))
    names = [name for name, reason in reasons.items() if reason is None]
    timings = []
    for height, width in sizes:
        problem = encoder_problem(height, width, batch, dtype, torch_device)
        for job, backward in (("forward", False), ("forward + backward", True)):
            run = problem.forward_and_backward if backward else problem.forward
            runs = {name: _with_backend(name, run) for name in names}
            seconds = time_interleaved(runs, repeats, torch_device)
            timings += [
                OpsTiming(f"{height}x{width}", job, name, seconds[name], problem.bytes(backward))
                for name in names
            ]
    gpu = torch_device.type == "cuda"
    return OpsResults(
        torch.cuda.get_device_name(torch_device) if gpu else "CPU",
        torch.__version__,
        torch.get_num_threads(),
        str(dtype).removeprefix("torch."),
        batch,
        repeats,
        copy_bandwidth(torch_device),
        timings,
        {name: reason for name, reason in reasons.items() if reason},
    )


def ops_table(results: OpsResults) -> RenderableType:
    """Return the results as a table, with speedups over the backend `plain`."""
    machine = results.device
    if machine == "CPU":
        machine = f"CPU, {results.threads} threads"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Deformable attention on {machine}, {results.dtype}, batch {results.batch}",
        title_justify="left",
        title_style="bold",
        caption=f"Medians of {results.repeats} interleaved runs; torch {results.torch}. x plain: "
        "speedup over plain. GB: each input read once, each output written once. of copy: "
        f"bandwidth relative to the {results.bandwidth / 1e9:,.0f} GB/s of a copy.",
        caption_justify="left",
    )
    table.add_column("image")
    table.add_column("job", no_wrap=True)
    table.add_column("backend", no_wrap=True)
    for name in ("ms", "x plain", "GB", "of copy"):
        table.add_column(name, justify="right")
    plain = {(x.size, x.job): x.seconds for x in results.timings if x.backend == "plain"}
    previous = None
    for timing in results.timings:
        key = (timing.size, timing.job)
        if previous not in (None, key):
            table.add_section()
        table.add_row(
            *(key if previous != key else ("", "")),
            timing.backend,
            f"{timing.seconds * 1e3:,.2f}",
            f"{plain[key] / timing.seconds:.2f}",
            f"{timing.bytes / 1e9:.3f}",
            f"{timing.bytes / timing.seconds / results.bandwidth:.1%}",
        )
        previous = key
    reasons = [f"[dim]{name}: {escape(text)}[/]" for name, text in results.unavailable.items()]
    return Group(table, *reasons)


def _with_backend(name: str, run: Callable[[], object]) -> Callable[[], object]:
    def call() -> object:
        with use_backend(name):
            return run()

    return call


def _error(run: Callable[[], object]) -> str | None:
    """Return the error of a backend, so that the others are timed all the same."""
    try:
        run()
    except Exception as error:
        return f"fails: {type(error).__name__}: {error}"[:300]
    return None


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
