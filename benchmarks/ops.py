"""`mpdiag bench ops`: every backend of deformable attention at the pixel decoder's real sizes."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from benchmarks.timing import copy_bandwidth, interleaved
from mpdiag.errors import DependencyError
from mpdiag.ops import cell_centers, ms_deform_attn, use_backend
from mpdiag.ops.backends import BACKENDS, unavailable_reason

HEADS, CHANNELS, POINTS = 8, 32, 4  # of the published models
STRIDES = (32, 16, 8)
SIZES = ("512x512", "800x1333", "1024x1024")
SPREAD = 3.0  # cells that a sample lies from its query, standard deviation
REPEATS = {"cpu": 5, "cuda": 50}


@dataclass(frozen=True)
class Timing:
    """One backend on one problem: seconds, and the least number of bytes that must move."""

    size: str
    job: str
    backend: str
    seconds: float
    bytes: int


@dataclass(frozen=True)
class OpsBench:
    """What was measured, on what, and which backends couldn't run."""

    device: str
    torch: str
    threads: int
    dtype: str
    batch: int
    repeats: int
    bandwidth: float  # bytes per second of a copy
    timings: list[Timing]
    absent: dict[str, str]

    def as_json(self) -> dict[str, object]:
        """All of it as plain numbers and texts."""
        return asdict(self)


@dataclass(frozen=True)
class Problem:
    """Arguments of ms_deform_attn and the gradient of its output."""

    value: Tensor
    shapes: list[tuple[int, int]]
    locations: Tensor
    weights: Tensor
    upstream: Tensor

    def forward(self) -> Tensor:
        """Without gradients, as at inference."""
        with torch.no_grad():
            return ms_deform_attn(self.value, self.shapes, self.locations, self.weights)

    def forward_and_backward(self) -> tuple[Tensor, ...]:
        """Gradients of value, locations and weights."""
        inputs = [x.detach().requires_grad_() for x in (self.value, self.locations, self.weights)]
        output = ms_deform_attn(inputs[0], self.shapes, inputs[1], inputs[2])
        return torch.autograd.grad(output, inputs, self.upstream)

    def bytes(self, backward: bool) -> int:
        """Each input read once, each output written once."""
        inputs = sum(_bytes(x) for x in (self.value, self.locations, self.weights))
        output = _bytes(self.upstream)
        return inputs + output + backward * (2 * inputs + output)


def encoder_problem(
    height: int, width: int, batch: int, dtype: torch.dtype, device: torch.device
) -> Problem:
    """What an encoder layer of the pixel decoder asks for an image: all cells are queries.

    Samples lie around the query's own place, as trained models have them.
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
    return Problem(
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
) -> OpsBench:
    """Time all backends that run on a device, taking turns in this process.

    Args:
        sizes: heights and widths of images in pixels; padded to multiples of 32 as the model does.
        device: "cpu" or "cuda".
        dtype: of the value; locations and weights are float32.
        batch: images.
        repeats: how often each is timed, by default 5 times on a CPU and 50 on a GPU.

    Raises:
        DependencyError: there is no such device.
    """
    if device not in REPEATS or (device == "cuda" and not torch.cuda.is_available()):
        raise DependencyError(
            f"--device {device}: PyTorch sees none here, or mpdiag doesn't know it"
        )
    place = torch.device(device)
    repeats = repeats or REPEATS[place.type]
    obstacles = {backend.name: unavailable_reason(backend, place.type, dtype) for backend in BACKENDS}
    names = [name for name, reason in obstacles.items() if reason is None]
    timings = []
    for height, width in sizes:
        problem = encoder_problem(height, width, batch, dtype, place)
        for job, backward in (("forward", False), ("forward + backward", True)):
            run = problem.forward_and_backward if backward else problem.forward
            seconds = interleaved({name: _by(name, run) for name in names}, repeats, place)
            timings += [
                Timing(f"{height}x{width}", job, name, seconds[name], problem.bytes(backward))
                for name in names
            ]
    gpu = place.type == "cuda"
    return OpsBench(
        torch.cuda.get_device_name(place) if gpu else "CPU",
        torch.__version__,
        torch.get_num_threads(),
        str(dtype).removeprefix("torch."),
        batch,
        repeats,
        copy_bandwidth(place),
        timings,
        {name: reason for name, reason in obstacles.items() if reason},
    )


def ops_table(bench: OpsBench) -> RenderableType:
    """The measurements for a terminal: ratios are to plain PyTorch at the same size and job."""
    where = f"{bench.device}, {bench.threads} threads" if bench.device == "CPU" else bench.device
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Deformable attention on {where}, {bench.dtype}, batch {bench.batch}",
        title_justify="left",
        title_style="bold",
        caption=f"Medians of {bench.repeats}, taking turns; torch {bench.torch}. x plain: how many "
        "times as fast as plain. GB: each input read, each output written once; of copy: their "
        f"share of the {bench.bandwidth / 1e9:,.0f} GB/s that a copy moves.",
        caption_justify="left",
    )
    table.add_column("image")
    table.add_column("job", no_wrap=True)
    table.add_column("backend", no_wrap=True)
    for name in ("ms", "x plain", "GB", "of copy"):
        table.add_column(name, justify="right")
    plain = {(x.size, x.job): x.seconds for x in bench.timings if x.backend == "plain"}
    before = None
    for timing in bench.timings:
        key = (timing.size, timing.job)
        if before not in (None, key):
            table.add_section()
        table.add_row(
            *(key if before != key else ("", "")),
            timing.backend,
            f"{timing.seconds * 1e3:,.2f}",
            f"{plain[key] / timing.seconds:.2f}",
            f"{timing.bytes / 1e9:.3f}",
            f"{timing.bytes / timing.seconds / bench.bandwidth:.1%}",
        )
        before = key
    absent = [f"[dim]{name}: {escape(reason)}[/]" for name, reason in bench.absent.items()]
    return Group(table, *absent)


def _by(name: str, run: Callable[[], object]) -> Callable[[], object]:
    def by() -> object:
        with use_backend(name):
            return run()

    return by


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
