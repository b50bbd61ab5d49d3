"""`mpdiag bench analyze`: overhead of an analysis over inference, and a naive baseline of matching.

Inference and analysis of each batch run in turn in one process, which exposes both to the same load
of the machine.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import rich.box
import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks.naive_analysis import IouAndMatches, mpdiag_analysis, naive_analysis
from benchmarks.scenes import SyntheticScenes
from benchmarks.timing import time_interleaved
from mpdiag.analysis import analyze
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.config import LossConfig, ModelConfig
from mpdiag.data import padded_targets
from mpdiag.errors import ConfigError
from mpdiag.models import Mask2Former
from mpdiag.models.mask2former import padded_size
from mpdiag.ops.devices import choose_device
from mpdiag.recording import record

ROUNDS = 5  # of IoU and matching on one image
CLOCKS = ("wall", "cpu")

Seconds = tuple[float, float]  # one per clock; CPU time is the sum over threads


@dataclass(slots=True)
class PairedTimes:
    """Times of inference and analysis of the same batches.

    Attributes:
        inference, analysis: times of each batch.
        startup: time of the analysis before the first batch.
    """

    inference: list[Seconds] = field(default_factory=list)
    analysis: list[Seconds] = field(default_factory=list)
    startup: Seconds = (0.0, 0.0)

    def overhead(self, clock: str) -> float:
        """Return the overhead of the whole analysis as a fraction of the inference time."""
        index = CLOCKS.index(clock)
        analysis = self.startup[index] + sum(seconds[index] for seconds in self.analysis)
        return analysis / sum(seconds[index] for seconds in self.inference) - 1

    def median_overhead(self, clock: str) -> float:
        """Return the median overhead of a batch as a fraction of its inference time."""
        index, pairs = CLOCKS.index(clock), zip(self.inference, self.analysis, strict=True)
        return median(analysis[index] / inference[index] - 1 for inference, analysis in pairs)


@dataclass(slots=True)
class AnalysisResults:
    """Measurements of the benchmark.

    Attributes:
        device, threads: the machine.
        images, size: number of images and their (height, width).
        inference: mean seconds of inference per image.
        analyses: times with and without AP.
        naive, mpdiag: median seconds of IoU and matching of one image.
    """

    device: str
    threads: int
    images: int
    size: tuple[int, int]
    inference: float
    analyses: dict[str, PairedTimes]
    naive: float
    mpdiag: float


def bench_analysis(images: int, size: tuple[int, int], model: ModelConfig) -> AnalysisResults:
    """Analyze synthetic scenes with a model of random weights.

    Args:
        images: number of images.
        size: height and width of the images in pixels.
        model: architecture of the model.

    Raises:
        ConfigError: fewer than 1 image.
        AssertionError: the naive baseline computes other numbers.
    """
    if images < 1:
        raise ConfigError(f"--images {images}: give the number of images, at least 1")
    scenes = SyntheticScenes(images, size, model.num_classes)
    for index in range(images):
        scenes[index]  # drawn here and kept in memory
    torch.manual_seed(0)
    device = choose_device(None)
    loaded = LoadedCheckpoint(
        Path("random"),
        "random weights",
        "",
        Mask2Former(model).eval().to(device),
        training_info=TrainingInfo(LossConfig(), short_side=min(size), long_side=max(size)),
    )
    analyses = {}
    with TemporaryDirectory() as folder:
        for name, evaluate in (("with AP", True), ("without AP", False)):
            with _paired(loaded.model) as analyses[name]:
                analyze(loaded, scenes, Path(folder) / name, evaluate=evaluate)
    passes = [seconds[0] for times in analyses.values() for seconds in times.inference]
    matching = _time_iou_and_matching(loaded.model, scenes, device)
    return AnalysisResults(
        torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        torch.get_num_threads(),
        images,
        size,
        sum(passes) / (len(analyses) * images),
        analyses,
        matching["naive"],
        matching["mpdiag"],
    )


@contextmanager
def _paired(model: Mask2Former) -> Iterator[PairedTimes]:
    """Before each forward pass of `model`, time that of a copy on the same images.

    The time between two passes of the copy is that of the analysis of a batch. The last one
    includes the end of the analysis.
    """
    times, copy, last = PairedTimes(), Mask2Former(model.config).eval(), _now()

    def lap() -> Seconds:
        nonlocal last
        previous, last = last, _now()
        return last[0] - previous[0], last[1] - previous[1]

    def time_inference(module: nn.Module, inputs: tuple[Sequence[Tensor]]) -> None:
        if times.inference:
            times.analysis.append(lap())
        else:
            times.startup = lap()
            copy.load_state_dict(model.state_dict(), assign=True)
            copy.to(model.get_buffer("mean").device)(*inputs)  # warm-up
            lap()
        copy(*inputs)
        times.inference.append(lap())

    handle = model.register_forward_pre_hook(time_inference)
    try:
        yield times
        times.analysis.append(lap())
    finally:
        handle.remove()


def _now() -> Seconds:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


@torch.inference_mode()
def _time_iou_and_matching(
    model: Mask2Former, scenes: SyntheticScenes, device: torch.device
) -> dict[str, float]:
    """Time both implementations on the first scene and compare their results."""
    sample = scenes[0]
    (target,) = padded_targets([sample], padded_size([scenes.size]), device)
    with record(model, only=["class_logits", "mask_logits"]) as recording:
        model([sample.image.to(device)])
    class_logits, mask_logits = recording.class_logits, recording.mask_logits
    results: dict[str, IouAndMatches] = {}

    def run_naive() -> None:
        results["naive"] = naive_analysis(class_logits, mask_logits, target)

    def run_mpdiag() -> None:
        results["mpdiag"] = mpdiag_analysis(class_logits, mask_logits, target)

    seconds = time_interleaved({"naive": run_naive, "mpdiag": run_mpdiag}, ROUNDS, device)
    if not results["naive"].equals(results["mpdiag"]):
        raise AssertionError("the naive baseline computes other IoU or matches")
    return seconds


def analysis_table(results: AnalysisResults) -> Table:
    """Return the results as a table."""
    height, width = results.size
    machine = results.device
    if machine == "CPU":
        machine = f"CPU, {results.threads} threads"
    view = Table(
        box=rich.box.SIMPLE_HEAD,
        title=f"{results.images} images of {height} x {width} on {machine}",
        title_justify="left",
        title_style="bold",
        caption="Inference and analysis run in turn. Analysis: recording, matching, rows, writing, "
        "summary. Paired: median over batches.",
        caption_justify="left",
    )
    view.add_column("")
    for name in ("ms per image", "overhead", "paired", "overhead, CPU time", "paired"):
        view.add_column(name, justify="right")
    view.add_row("inference", f"{1e3 * results.inference:.1f}", *[""] * 4)
    for name, times in results.analyses.items():
        overheads = [
            f"{overhead(clock):.1%}"
            for clock in CLOCKS
            for overhead in (times.overhead, times.median_overhead)
        ]
        total = times.startup[0] + sum(seconds[0] for seconds in times.analysis)
        view.add_row(f"analysis {name}", f"{1e3 * total / results.images:.1f}", *overheads)
    view.add_section()
    for name, seconds in (("naive", results.naive), ("mpdiag", results.mpdiag)):
        view.add_row(
            f"IoU and matching, {name}",
            f"{1e3 * seconds:.1f}",
            f"{seconds / results.inference:.1%}",
            f"{results.naive / seconds:.1f} x as fast" if name == "mpdiag" else "",
        )
    return view
