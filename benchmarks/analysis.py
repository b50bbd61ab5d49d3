"""`mpdiag bench analyze`: what a whole analysis adds to bare inference, and matching the plain way.

Bare and analysed passes take turns batch by batch in one process, so that what else the machine
does falls on both.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import rich.box
import torch
from rich.table import Table
from torch import Tensor, nn

from mpdiag.analysis import analyze
from benchmarks.naive_analysis import Measured, by_toolkit, plainly
from benchmarks.scenes import Scenes
from benchmarks.timing import interleaved
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.config import LossConfig, ModelConfig
from mpdiag.data import padded_targets
from mpdiag.errors import ConfigError
from mpdiag.matching import Target
from mpdiag.models import Mask2Former
from mpdiag.models.mask2former import padded_size
from mpdiag.recording import record

ROUNDS = 5  # of IoU and matching on one image
CLOCKS = ("wall", "cpu")

Seconds = tuple[float, float]  # by each of the clocks; CPU time is that of all threads


@dataclass(slots=True)
class Pairs:
    """What bare and analysed passes over the same batches took; `rest` came before the first."""

    bare: list[Seconds] = field(default_factory=list)
    analysed: list[Seconds] = field(default_factory=list)
    rest: Seconds = (0.0, 0.0)

    def added(self, clock: str) -> float:
        """What the whole analysis, its beginning and its end too, added to all bare passes."""
        at = CLOCKS.index(clock)
        analysed = self.rest[at] + sum(seconds[at] for seconds in self.analysed)
        return analysed / sum(seconds[at] for seconds in self.bare) - 1

    def median_added(self, clock: str) -> float:
        """The median over batches of what was added to a batch's bare pass."""
        at, pairs = CLOCKS.index(clock), zip(self.bare, self.analysed, strict=True)
        return median(analysed[at] / bare[at] - 1 for bare, analysed in pairs)


@dataclass(slots=True)
class AnalysisBench:
    """What was measured.

    Attributes:
        device, threads: where.
        images, size: how many, and their (height, width).
        bare: median seconds of a bare pass, an image.
        analyses: the pairs of each kind of analysis.
        plain, ours: median seconds of IoU and matching of one image.
    """

    device: str
    threads: int
    images: int
    size: tuple[int, int]
    bare: float
    analyses: dict[str, Pairs]
    plain: float
    ours: float

    def as_json(self) -> dict[str, Any]:
        """All of it as plain numbers and texts."""
        return asdict(self)


def bench_analysis(images: int, size: tuple[int, int], model: ModelConfig) -> AnalysisBench:
    """Analyse synthetic scenes with a model of random weights.

    Args:
        images: how many.
        size: their height and width in pixels.
        model: the architecture.

    Raises:
        ConfigError: fewer than 1 image.
        AssertionError: the plain way gives other numbers.
    """
    if images < 1:
        raise ConfigError(f"--images {images}: give the number of images, at least 1")
    scenes = Scenes(images, size, model.num_classes)
    for index in range(images):
        scenes[index]  # drawn now
    torch.manual_seed(0)
    loaded = LoadedCheckpoint(
        Path("random"),
        "random weights",
        "",
        Mask2Former(model).eval(),
        training_info=TrainingInfo(LossConfig(), short_side=min(size), long_side=max(size)),
    )
    analyses = {}
    with TemporaryDirectory() as folder:
        for name, evaluate in (("with AP", True), ("without AP", False)):
            with _paired(loaded.model) as analyses[name]:
                analyze(loaded, scenes, Path(folder) / name, evaluate=evaluate)
    device = next(loaded.model.parameters()).device
    passes = [seconds[0] for pairs in analyses.values() for seconds in pairs.bare]
    rivals = _iou_and_matching(loaded.model, scenes, device)
    return AnalysisBench(
        torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        torch.get_num_threads(),
        images,
        size,
        sum(passes) / (len(analyses) * images),
        analyses,
        rivals["plain"],
        rivals["ours"],
    )


@contextmanager
def _paired(model: Mask2Former) -> Iterator[Pairs]:
    """Before each pass of `model` a bare one of the same images, by a twin with its weights.

    What lies between two bare passes is what the analysis took for a batch; after the last of them
    comes all that the analysis does at its end, too.
    """
    pairs, twin, last = Pairs(), Mask2Former(model.config).eval(), _now()

    def lap() -> Seconds:
        nonlocal last
        before, last = last, _now()
        return last[0] - before[0], last[1] - before[1]

    def bare_pass(module: nn.Module, inputs: tuple[Sequence[Tensor]]) -> None:
        if pairs.bare:
            pairs.analysed.append(lap())
        else:
            pairs.rest = lap()
            twin.load_state_dict(model.state_dict(), assign=True)
            twin.to(inputs[0][0].device)(*inputs)  # the first pass of a process takes longer
            lap()
        twin(*inputs)
        pairs.bare.append(lap())

    handle = model.register_forward_pre_hook(bare_pass)
    try:
        yield pairs
        pairs.analysed.append(lap())
    finally:
        handle.remove()


def _now() -> Seconds:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


@torch.inference_mode()
def _iou_and_matching(model: Mask2Former, scenes: Scenes, device: torch.device) -> dict[str, float]:
    """Seconds of both ways on the first scene; their numbers are compared."""
    sample = scenes[0]
    size = padded_size([scenes.size])
    (target,) = padded_targets([sample], size, device)
    with record(model, only=["class_logits", "mask_logits"]) as recording:
        model([sample.image.to(device)])
    class_logits, mask_logits = recording.class_logits, recording.mask_logits
    arguments: tuple[Tensor, Tensor, Target] = (class_logits, mask_logits, target)
    found: dict[str, Measured] = {}

    def run(name: str) -> None:
        found[name] = (plainly if name == "plain" else by_toolkit)(*arguments)

    rivals = {name: lambda name=name: run(name) for name in ("plain", "ours")}
    seconds = interleaved(rivals, ROUNDS, device)
    if not found["plain"].equals(found["ours"]):
        raise AssertionError("the plain way gives other IoU or matches")
    return seconds


def analysis_table(bench: AnalysisBench) -> Table:
    """The measurements for a terminal."""
    height, width = bench.size
    where = f"{bench.device}, {bench.threads} threads" if bench.device == "CPU" else bench.device
    view = Table(
        box=rich.box.SIMPLE_HEAD,
        title=f"{bench.images} images of {height} x {width} on {where}",
        title_justify="left",
        title_style="bold",
        caption="Bare and analysed passes take turns. Analysis: recording, matching, rows, "
        "writing, summary. Paired: median over batches.",
        caption_justify="left",
    )
    view.add_column("")
    for name in ("ms an image", "added", "paired", "added, CPU time", "paired"):
        view.add_column(name, justify="right")
    view.add_row("bare inference", f"{1e3 * bench.bare:.1f}", *[""] * 4)
    for name, pairs in bench.analyses.items():
        shares = [
            f"{share(clock):.1%}" for clock in CLOCKS for share in (pairs.added, pairs.median_added)
        ]
        took = pairs.rest[0] + sum(seconds[0] for seconds in pairs.analysed)
        view.add_row(f"analysis {name}", f"{1e3 * took / bench.images:.1f}", *shares)
    view.add_section()
    for name, seconds in (("plain", bench.plain), ("ours", bench.ours)):
        view.add_row(
            f"IoU and matching, {name}",
            f"{1e3 * seconds:.1f}",
            f"{seconds / bench.bare:.1%}",
            f"{bench.plain / seconds:.1f} x as fast" if name == "ours" else "",
        )
    return view
