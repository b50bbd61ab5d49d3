"""The steps of `mpdiag bench gpu`, each in a process of its own."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import torch

from benchmarks.analysis import bench_analysis
from benchmarks.gpu_scale import (
    JOBS,
    PRECISIONS,
    Scale,
    attention_figure,
    inference_figure,
    training_figure,
)
from benchmarks.host_waits import count_waits
from benchmarks.memory import inference, random_trainer, training_step
from benchmarks.ops import bench_ops
from benchmarks.peak_memory import measure_in_process
from benchmarks.scenes import random_samples
from benchmarks.timing import time_interleaved
from benchmarks.training import StepTiming, TrainerStep, build_implementations, time_steps
from mpdiag.config import TrainConfig
from mpdiag.data import (
    Sample,
    TrainingBatches,
    build_augmentation,
    generate_synthetic,
    load_dataset,
)
from mpdiag.models import Mask2Former
from mpdiag.ops import set_tf32
from trainers.recipe import load_recipe
from trainers.trainer import Trainer

CHECKOUT = Path(__file__).resolve().parents[1]
RECIPE = "table3-mp-former-r50-coco-instance"

Result = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A part of the benchmark.

    Attributes:
        run: takes the sizes and a checkout of the official code or None, and returns numbers for
            JSON. Seconds under `figures` are compared with the predictions.
        seconds: estimate of its duration at full size, start of the process included.
    """

    run: Callable[[Scale, Path | None], Result]
    seconds: float


def cuda_tests(scale: Scale, official: Path | None) -> Result:
    """Run the tests that need a GPU."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *scale.tests]
        done = subprocess.run(
            [*command, f"--junitxml={report}"], cwd=CHECKOUT, capture_output=True, text=True
        )
        if not report.is_file():
            raise RuntimeError(f"pytest failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return read_junit(report)


def read_junit(report: Path) -> Result:
    """Return the names of passed tests, and of failed and skipped ones with their messages."""
    found: Result = {"passed": [], "failed": {}, "skipped": {}}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        outcomes = {child.tag: child.get("message") or "" for child in case}
        failed = [tag for tag in ("failure", "error") if tag in outcomes]
        if failed:
            found["failed"][name] = outcomes[failed[0]]
        elif "skipped" in outcomes:
            found["skipped"][name] = outcomes["skipped"]
        else:
            found["passed"].append(name)
    return found


def attention(dtype: torch.dtype) -> Callable[[Scale, Path | None], Result]:
    """Return a step that times all backends of deformable attention."""

    def run(scale: Scale, official: Path | None) -> Result:
        repeats = 1 if scale.name == "toy" else None
        found = bench_ops(
            scale.attention_sizes, device="cuda", dtype=dtype, batch=scale.batch, repeats=repeats
        )
        figures = {}
        for size in scale.attention_sizes:
            for job in JOBS:
                times = [
                    timing.seconds
                    for timing in found.timings
                    if (timing.size, timing.job) == (f"{size[0]}x{size[1]}", job)
                ]
                figures[attention_figure(found.dtype, size, job)] = min(times)
        return {"figures": figures, **asdict(found)}

    return run


def recipe(scale: Scale, *changes: str) -> TrainConfig:
    """Return the recipe of the published MP-Former R50 at a scale."""
    config = load_recipe(
        RECIPE,
        [
            *scale.changes,
            f"data.batch_size={scale.batch}",
            f"data.augment.crop=[{scale.crop[0]}, {scale.crop[1]}]",
            "init=null",
            "layer_metrics_every=null",
            *changes,
        ],
    )
    return config.model_copy(update={"model": scale.model})


def in_precision(name: str) -> tuple[str, str]:
    """Return the settings of a precision."""
    precision, tf32 = PRECISIONS[name]
    return f"precision={precision}", f"tf32={tf32}"


def same_batches(config: TrainConfig, scale: Scale) -> Iterator[list[Sample]]:
    """Return the same batch again and again, so that no loader is measured."""
    samples = random_samples(config.data.batch_size, scale.crop, config.model.num_classes)
    return repeat(samples)


def training(precision: str) -> Callable[[Scale, Path | None], Result]:
    """Return a step that times training steps of all implementations."""

    def run(scale: Scale, official: Path | None) -> Result:
        config = recipe(scale, *in_precision(precision))

        def trainer(method: str) -> Trainer:
            return random_trainer(config.model_copy(update={"method": method}))

        found = build_implementations(trainer, peer=scale.peer, official=official)
        timings = time_steps(found, same_batches(config, scale), scale.repeats)
        figures = {training_figure(precision, x.name): x.step_seconds() for x in timings}
        for name in ("baseline", "multi-layer MP"):
            take_step = found[name]
            assert isinstance(take_step, TrainerStep)
            figures[training_figure(precision, f"{name}, back to back")] = back_to_back(
                take_step.trainer, same_batches(config, scale), scale.repeats
            )
        return {"figures": figures, "timings": [timing.as_json() for timing in timings]}

    return run


def back_to_back(trainer: Trainer, batches: Iterator[list[Sample]], steps: int) -> float:
    """Return the seconds of a step when the CPU does not wait after each phase."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        samples = next(batches)
        trainer.step(samples, range(len(samples)))
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps


def variant(name: str, setting: str) -> Callable[[Scale, Path | None], Result]:
    """Return a step that times the MP training step under a further setting."""

    def run(scale: Scale, official: Path | None) -> Result:
        config = recipe(scale, *in_precision("bf16 and tf32"), "method=piloted", setting)
        trainer = {name: TrainerStep(random_trainer(config))}
        timing = time_steps(trainer, same_batches(config, scale), scale.repeats)[0]
        figure = training_figure("bf16 and tf32", f"multi-layer MP, {name}")
        return {"figures": {figure: timing.step_seconds()}}

    return run


@torch.inference_mode()
def inference_times(scale: Scale, official: Path | None) -> Result:
    """Time a forward pass of one image in each precision."""
    device = torch.device("cuda")
    model = Mask2Former(scale.model).eval().to(device)
    image = torch.randint(0, 256, (3, *scale.image), dtype=torch.uint8, device=device)

    def forward(name: str) -> Callable[[], object]:
        precision, tf32 = PRECISIONS[name]

        def run() -> object:
            set_tf32(tf32)
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
                return model([image])

        return run

    seconds = time_interleaved({x: forward(x) for x in PRECISIONS}, scale.repeats, device)
    return {"figures": {inference_figure(name): value for name, value in seconds.items()}}


def analysis(scale: Scale, official: Path | None) -> Result:
    """Time an analysis beside inference."""
    return asdict(bench_analysis(max(scale.repeats, 2), scale.image, scale.model))


def memory(scale: Scale, official: Path | None) -> Result:
    """Measure the peak of the allocator in training steps and inference."""
    peaks = {}
    for name in PRECISIONS:
        for method in ("baseline", "piloted"):
            config = recipe(scale, *in_precision(name), f"method={method}")
            job = f"{training_figure(name, method)}, {scale.batch} images"
            peaks[job] = measure_in_process(job, partial(training_step, config, scale.crop))
            torch.cuda.empty_cache()
    peaks["inference"] = measure_in_process(
        "inference", partial(inference, scale.model, scale.image)
    )
    return {"peaks": [asdict(peak) for peak in peaks.values()]}


def host_waits(scale: Scale, official: Path | None) -> Result:
    """Count what makes the CPU wait in a training step of each method."""
    found = {}
    for method in ("baseline", "piloted"):
        config = recipe(scale, *in_precision("bf16 and tf32"), f"method={method}")
        found[method] = count_waits(training_step(config, scale.crop))
    return {"training steps": found}


def loader(scale: Scale, official: Path | None) -> Result:
    """Compare the images that the loader makes with those that the model takes."""
    config = recipe(scale, *in_precision("bf16 and tf32"), "method=piloted")
    side = max(scale.crop) * 5 // 8  # 640 pixels, as images of COCO
    with TemporaryDirectory() as folder:
        generate_synthetic(
            Path(folder) / "synthetic", train=max(scale.workers, 2), val=1, size=side
        )
        data = load_dataset("synthetic", root=Path(folder), split="train")
        batches = TrainingBatches(
            data, scale.batch, 0, build_augmentation(config.data), scale.workers, filter_empty=True
        )
        steps = max(scale.repeats, 2 * scale.workers)
        samples = batches.start(0)
        next(samples)  # starts the workers
        started = time.perf_counter()
        for _ in range(steps):
            next(samples)
        alone = steps * scale.batch / (time.perf_counter() - started)
        timing = _train_from(random_trainer(config), batches, steps)
    model = timing.images_per_second()
    waiting = sum(step["data"] for step in timing.steps)
    total = sum(sum(step.values()) for step in timing.steps)
    return {
        "workers": scale.workers,
        "loader images per second": alone,
        "model images per second": model,
        "loader over model": alone / model,
        "share of a step spent waiting for data": waiting / total,
    }


def _train_from(trainer: Trainer, batches: TrainingBatches, steps: int) -> StepTiming:
    return time_steps({"multi-layer MP": TrainerStep(trainer)}, batches.start(0), steps)[0]


# In order of importance. The tests come first: they say whether the other numbers count.
STEPS: Mapping[str, Step] = {
    "tests": Step(cuda_tests, 90),
    "attention, float32": Step(attention(torch.float32), 30),
    "training, bf16": Step(training("bf16"), 60),
    "training, float32": Step(training("float32"), 60),
    "training, tf32": Step(training("tf32"), 50),
    "training, bf16 and tf32": Step(training("bf16 and tf32"), 50),
    "host waits": Step(host_waits, 30),
    "inference": Step(inference_times, 25),
    "analysis": Step(analysis, 60),
    "attention, bfloat16": Step(attention(torch.bfloat16), 25),
    "memory": Step(memory, 60),
    "loader": Step(loader, 60),
    "channels_last": Step(variant("channels_last", "channels_last=true"), 30),
    "batch of 8": Step(variant("batch of 8", "data.batch_size=8"), 30),
    "compile": Step(variant("compile", "compile=true"), 60),
}
