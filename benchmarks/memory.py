"""`mpdiag bench memory`: how far a job lifts the memory of a process that does nothing else.

A job prepares in a fresh process and gives back what is measured. On a GPU its allocator's peak
counts, elsewhere the largest resident set, which the kernel keeps.
"""

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import rich.box
import torch
from rich.table import Table

from mpdiag.allocator import keep_freed_memory
from mpdiag.analysis import analyze
from benchmarks.scenes import Scenes
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.config import BackboneConfig, LossConfig, ModelConfig
from mpdiag.errors import DependencyError
from mpdiag.models import Mask2Former, ImageSizes, instance_inference

Job = Callable[[], Callable[[], object]]

TINY = ModelConfig(
    num_classes=7,
    backbone=BackboneConfig(name="resnet18", channels=(8, 8, 16, 16), stem_channels=8),
    hidden_dim=32,
    mask_dim=16,
    num_heads=4,
    encoder_layers=1,
    encoder_feedforward_dim=32,
    decoder_layers=3,
    feedforward_dim=32,
    num_queries=20,
)


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes that were taken before a job ran, and at the most while it did."""

    job: str
    device: str
    before: int
    peak: int

    def as_json(self) -> dict[str, Any]:
        """All of it as plain numbers and texts."""
        return asdict(self)


def peak_of(name: str, job: Job) -> Peak:
    """Run a job in a fresh process, with as many threads as this one has.

    Args:
        name: of the job.
        job: a function of a module (or a `partial` of one), which prepares and returns what is
            measured.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, name, job, torch.get_num_threads()).result()


def _measure(name: str, job: Job, threads: int) -> Peak:
    keep_freed_memory()  # as all commands do
    torch.set_num_threads(threads)
    run = job()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        device = torch.cuda.get_device_name()
        return Peak(name, device, before, torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if not status.is_file():
        raise DependencyError("bench memory reads /proc/self/status, which this system hasn't")
    Path("/proc/self/clear_refs").write_text("5")  # the largest so far is the present one
    before = _bytes(status, "VmRSS")
    run()
    return Peak(name, "CPU", before, _bytes(status, "VmHWM"))


def _bytes(status: Path, key: str) -> int:
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def inference(model: ModelConfig, size: tuple[int, int]) -> Callable[[], object]:
    """One image of a size in pixels through a model, down to its instances at that size."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = Mask2Former(model).eval().to(device)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, device=device)

    @torch.inference_mode()
    def run() -> object:
        found = network([image]).matching
        height, width = network.preprocess([image]).shape[-2:]
        sizes = ImageSizes((height, width), size, size)
        return instance_inference(found.class_logits[-1, 0], found.mask_logits[-1, 0], sizes)

    return run


def analysis(images: int, size: tuple[int, int], model: ModelConfig = TINY) -> Callable[[], object]:
    """An analysis of so many synthetic scenes by a model of random weights.

    Without AP, whose measure has to hold the detections of all images at its end.
    """
    scenes = Scenes(images, size, model.num_classes, keep=False)
    training_info = TrainingInfo(LossConfig(), short_side=min(size), long_side=max(size))
    network = Mask2Former(model).eval()
    loaded = LoadedCheckpoint(Path("random"), "random weights", "", network, training_info=training_info)

    def run() -> object:
        with TemporaryDirectory() as folder:
            return json.dumps(analyze(loaded, scenes, Path(folder) / "run", evaluate=False))

    return run


def memory_table(peaks: list[Peak]) -> Table:
    """MiB for a terminal."""
    view = Table(box=rich.box.SIMPLE_HEAD, title="Memory, MiB", title_justify="left")
    view.add_column("job")
    for name in ("before", "peak", "rise"):
        view.add_column(name, justify="right")
    for peak in peaks:
        sizes = (peak.before, peak.peak, peak.peak - peak.before)
        view.add_row(f"{peak.job} ({peak.device})", *(f"{size / 2**20:,.0f}" for size in sizes))
    return view
