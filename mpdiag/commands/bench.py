"""`mpdiag bench ops|analyze|loader|memory|monitor|train|diagnose`, in a source checkout."""

import logging
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from mpdiag.commands.options import Root, err, out, suggest
from mpdiag.commands.size import parse_size
from mpdiag.errors import DependencyError

CHECKOUT = Path(__file__).resolve().parents[2]

Json = Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")]

bench_app = typer.Typer(no_args_is_help=True)


@bench_app.callback()
def bench() -> None:
    """Measure speed and memory, compared with other implementations."""
    if not (CHECKOUT / "pyproject.toml").is_file() or not (CHECKOUT / "benchmarks").is_dir():
        raise DependencyError(
            "mpdiag bench: the benchmarks are not part of the installed package; run it from a "
            "source checkout (pip install -e .)"
        )
    sys.path.insert(0, str(CHECKOUT))


def _show(table: Table) -> None:
    """Print a table at full width; a narrow terminal wraps lines but truncates no number."""
    wide = out.options.update(max_width=500)
    table.width = out.measure(table, options=wide).maximum
    out.print(table, crop=False)


def _finish(content: dict[str, Any], json_file: Path | None, command: str) -> None:
    """Write the results if there is a file for them, and print what to run next."""
    from mpdiag.store.files import replace_json

    if json_file is not None:
        replace_json(json_file, content)
    suggest(command)


@bench_app.command("ops")
def bench_ops(
    size: Annotated[
        list[str] | None,
        typer.Option(help="Image size HEIGHTxWIDTH; repeatable.", show_default=False),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(help="Timed runs per backend.", min=1, show_default="5 on a CPU, 50 on a GPU"),
    ] = None,
    batch: Annotated[int, typer.Option(help="Batch size.", min=1)] = 1,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Dtype of the values.")
    ] = "float32",
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda.", show_default="cuda if available")
    ] = None,
    json_file: Json = None,
) -> None:
    """Time all backends of deformable attention at the sizes of the pixel decoder."""
    import torch

    from benchmarks.ops import SIZES, ops_table
    from benchmarks.ops import bench_ops as run

    logging.getLogger("mpdiag.ops").setLevel(logging.WARNING)  # the table names the backends
    results = run(
        [parse_size(text) for text in size or SIZES],
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        dtype=getattr(torch, dtype),
        batch=batch,
        repeats=repeats,
    )
    out.print(ops_table(results))
    _finish(asdict(results), json_file, "mpdiag bench analyze")


@bench_app.command("analyze")
def bench_analyze(
    images: Annotated[int, typer.Option(help="Number of synthetic images.")] = 30,
    size: Annotated[str, typer.Option(help="Image size HEIGHTxWIDTH.")] = "480x640",
    json_file: Json = None,
) -> None:
    """Measure the overhead of an analysis, and matching against a naive baseline.

    The model is R50 with 100 queries and random weights.
    """
    from benchmarks.analysis import analysis_table, bench_analysis
    from mpdiag.config import ModelConfig

    results = bench_analysis(images, parse_size(size), ModelConfig())
    _show(analysis_table(results))
    _finish(asdict(results), json_file, "mpdiag analyze CHECKPOINT")


@bench_app.command("loader")
def bench_loader(
    dataset: Annotated[str, typer.Argument(help="coco, or a COCO-format FILE.json.")],
    root: Root = None,
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "train",
    images: Annotated[int, typer.Option(help="Number of annotated images to load.")] = 80,
    json_file: Json = None,
) -> None:
    """Measure training samples per second and core, against a naive baseline."""
    from benchmarks.loader import bench_loader as run
    from benchmarks.loader import loader_table

    timings = run(dataset, root=root, split=split, images=images)
    _show(loader_table(timings))
    content = {"timings": [asdict(timing) for timing in timings]}
    _finish(content, json_file, "mpdiag bench train RECIPE")


@bench_app.command("memory")
def bench_memory(
    batch: Annotated[int, typer.Option(help="Batch size of the training step.", min=1)] = 1,
    images: Annotated[
        list[int] | None,
        typer.Option(
            help="Images of a small analysis; repeatable.", min=1, show_default="500, 1000, 2000"
        ),
    ] = None,
    json_file: Json = None,
) -> None:
    """Measure the peak memory of a training step, of inference, and of analyses.

    The model is R50 with 100 queries: a training step at 1024x1024 with 100 MP queries, and
    inference at 800x1333. The analyses use a small model.
    """
    from functools import partial

    from benchmarks.memory import analysis, inference, memory_table, training_step
    from benchmarks.peak_memory import measure_peak
    from mpdiag.config import ModelConfig
    from trainers.recipe import load_recipe

    recipe = load_recipe(
        "table3-mp-former-r50-coco-instance",
        [f"data.batch_size={batch}", "pilot.num_queries=100"],
    )
    jobs = {
        f"training step, {batch} x 1024x1024": partial(training_step, recipe, (1024, 1024)),
        "inference, 800x1333": partial(inference, ModelConfig(), (800, 1333)),
        **{
            f"analysis, {count} x 64x96": partial(analysis, count, (64, 96))
            for count in images or (500, 1000, 2000)
        },
    }
    peaks = [measure_peak(name, job) for name, job in jobs.items()]
    _show(memory_table(peaks))
    _finish({"peaks": [asdict(peak) for peak in peaks]}, json_file, "mpdiag bench train RECIPE")


@bench_app.command("gpu")
def bench_gpu(
    minutes: Annotated[float, typer.Option(help="Time for the steps of this call.", min=0)] = 10,
    size: Annotated[
        Literal["full", "toy"], typer.Option(help="toy only shows whether everything runs.")
    ] = "full",
    official: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also time the official code of this checkout of Mask2Former or MP-Former. Needs "
            "detectron2.",
        ),
    ] = None,
    json_file: Annotated[
        Path, typer.Option("--json", help="File of the results; its steps are not run again.")
    ] = Path("gpu.json"),
) -> None:
    """Run tests and all benchmarks on a GPU, in order of importance, as far as the time suffices.

    Call it again to continue.
    """
    from benchmarks.gpu import bench_gpu as run
    from benchmarks.gpu import gpu_table, unfinished_steps

    logging.getLogger("mpdiag.ops").setLevel(logging.WARNING)
    content = run(json_file, minutes=minutes, size=size, official=official, report=out.print)
    _show(gpu_table(content))
    out.print(str(json_file), markup=False, soft_wrap=True)
    if unfinished_steps(content):
        same = ["mpdiag", "bench", "gpu", "--size", size, "--json", str(json_file)]
        suggest(shlex.join([*same, *(["--official", str(official)] if official else [])]))
    else:
        suggest("mpdiag train --list")


@bench_app.command("monitor")
def bench_monitor(
    size: Annotated[str, typer.Option(help="Image size HEIGHTxWIDTH.")] = "256x256",
    batch: Annotated[int, typer.Option(help="Images per step.", min=1)] = 2,
    every: Annotated[int, typer.Option(help="Steps between measurements.", min=1)] = 50,
    repeats: Annotated[int, typer.Option(help="Timed steps of each kind.", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="Measured steps of the memory test.", min=2)] = 2000,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda.", show_default="cuda if available")
    ] = None,
    json_file: Json = None,
) -> None:
    """Measure time and memory that LayerMonitor adds to a training.

    The model is R50 with 100 queries and random weights; the memory test uses a small model.
    """
    import torch

    from benchmarks.monitor import bench_monitor as run
    from benchmarks.monitor import monitor_table
    from mpdiag.config import ModelConfig

    cost = run(
        ModelConfig(),
        parse_size(size),
        batch=batch,
        every=every,
        repeats=repeats,
        memory_steps=steps,
        device=torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")),
    )
    _show(monitor_table(cost))
    content = {**asdict(cost), "overhead": cost.overhead}
    _finish(content, json_file, "mpdiag bench train RECIPE")


@bench_app.command("train")
def bench_train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a YAML file.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Number of timed steps.")] = 20,
    peer: Annotated[bool, typer.Option(help="Include transformers' Mask2Former.")] = True,
    official: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Include the official code of this checkout of Mask2Former or MP-Former. Needs "
            "detectron2.",
        ),
    ] = None,
    json_file: Json = None,
) -> None:
    """Time training steps of the baseline and of multi-layer MP, and of other implementations."""
    from benchmarks.training import bench_training, training_table
    from trainers.recipe import load_recipe

    timings = bench_training(
        load_recipe(recipe, changes or []), steps=steps, peer=peer, official=official
    )
    content = {"timings": [timing.as_json() for timing in timings]}
    command = shlex.join(["mpdiag", "train", recipe, *(changes or [])])
    _show(training_table(timings))
    _finish(content, json_file, command)


@bench_app.command("diagnose")
def bench_diagnose(
    output: Annotated[
        Path, typer.Option(help="Directory of training, images and results; resumable.")
    ] = Path("runs/bench-diagnose"),
    half: Annotated[
        Literal["development", "reporting"],
        typer.Option(help="Half of the seeds and severities."),
    ] = "development",
    fault: Annotated[
        list[str] | None,
        typer.Option(help="Fault to plant, or healthy; repeatable.", show_default="all"),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Plant each fault once, at its highest severity.")
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Healthy model.", show_default="a small model that it trains"),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="COCO-format FILE.json for --checkpoint.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Image folder of --annotations.")] = None,
    limit: Annotated[
        int, typer.Option(help="Images of --annotations to draw for each case.", min=8)
    ] = 60,
    markdown: Annotated[
        Path | None,
        typer.Option(help="Write the tables into this file, between its marker comments."),
    ] = None,
) -> None:
    """Plant faults in a healthy model, and check that `mpdiag diagnose` finds their causes."""
    from benchmarks.diagnosis.cases import list_cases
    from benchmarks.diagnosis.healthy import ColoredShapes, GivenModel
    from benchmarks.diagnosis.run import run_benchmark
    from mpdiag.errors import ConfigError

    if checkpoint is None:
        source: ColoredShapes | GivenModel = ColoredShapes(output, err)
    elif annotations is None or images is None:
        raise ConfigError("--checkpoint: needs --annotations FILE.json and --images FOLDER")
    else:
        source = GivenModel(checkpoint, annotations, images, limit)
    cases = list_cases(half, fault or (), quick=quick)
    run_benchmark(source, cases, output / half, err, markdown)
    if half == "development":
        suggest("mpdiag bench diagnose --half reporting")
    else:
        suggest("mpdiag diagnose CHECKPOINT")
