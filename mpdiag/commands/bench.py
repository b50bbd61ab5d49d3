"""`mpdiag bench ops|analyze|loader|memory|train`."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from mpdiag.commands.options import Root, out

Json = Annotated[Path | None, typer.Option("--json", help="Write the figures into this file, too.")]

bench_app = typer.Typer(help="Measure speed, side by side with peers.", no_args_is_help=True)


def _show(table: Table) -> None:
    """Print a table in its full width: a narrow terminal breaks lines, but no figure is lost."""
    wide = out.options.update(max_width=500)
    table.width = out.measure(table, options=wide).maximum
    out.print(table, crop=False)


@bench_app.command("ops")
def bench_ops(
    size: Annotated[
        list[str] | None,
        typer.Option(help="HEIGHTxWIDTH of the image; may be repeated.", show_default=False),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(help="Times; by default 5 on a CPU, 50 on a GPU.", min=1)
    ] = None,
    batch: Annotated[int, typer.Option(help="Images at once.", min=1)] = 1,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the values.")] = "float32",
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; a GPU where there is one by default.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Time all backends of deformable attention at the pixel decoder's sizes."""
    import torch

    from benchmarks.ops import SIZES, ops_table
    from benchmarks.ops import bench_ops as run
    from mpdiag.models.complexity import parse_size
    from mpdiag.store.files import replace_json

    logging.getLogger("mpdiag.ops").setLevel(logging.WARNING)  # the table names the backends
    found = run(
        [parse_size(text) for text in size or SIZES],
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        dtype=getattr(torch, dtype),
        batch=batch,
        repeats=repeats,
    )
    out.print(ops_table(found))
    if json_file is not None:
        replace_json(json_file, found.as_json())


@bench_app.command("analyze")
def bench_analyze(
    images: Annotated[int, typer.Option(help="Synthetic scenes to analyse.")] = 30,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of them.")] = "480x640",
    json_file: Json = None,
) -> None:
    """What an analysis adds to bare inference, and IoU and matching beside the plain way.

    R50, 100 queries, random weights.
    """
    from benchmarks.analysis import analysis_table
    from benchmarks.analysis import bench_analysis as run
    from mpdiag.config import ModelConfig
    from mpdiag.models.complexity import parse_size
    from mpdiag.store.files import replace_json

    found = run(images, parse_size(size), ModelConfig())
    _show(analysis_table(found))
    if json_file is not None:
        replace_json(json_file, found.as_json())


@bench_app.command("loader")
def bench_loader(
    dataset: Annotated[str, typer.Argument(help="coco, or a COCO-format FILE.json.")],
    root: Root = None,
    split: Annotated[str, typer.Option(help="Part of the data set.")] = "train",
    images: Annotated[int, typer.Option(help="The first so many that are annotated.")] = 80,
    json_file: Json = None,
) -> None:
    """Training samples a second and core, beside those made as detectron2 makes them."""
    from benchmarks.loader import bench_loader as run
    from benchmarks.loader import loader_table
    from mpdiag.store.files import replace_json

    timings = run(dataset, root=root, split=split, images=images)
    _show(loader_table(timings))
    if json_file is not None:
        replace_json(json_file, {"timings": [timing.as_json() for timing in timings]})


@bench_app.command("memory")
def bench_memory(
    batch: Annotated[int, typer.Option(help="Images of the training step.", min=1)] = 1,
    images: Annotated[
        list[int] | None,
        typer.Option(help="Of a small analysis; may be repeated.", min=1, show_default=False),
    ] = None,
    json_file: Json = None,
) -> None:
    """Peak memory of a training step, of inference, and of analyses of more and more images.

    R50, 100 queries: a step with 100 MP queries at 1024, inference at 800x1333. By default small
    analyses of 500, 1000 and 2000 images.
    """
    from functools import partial

    from benchmarks.memory import analysis, inference, memory_table, peak_of
    from mpdiag.config import ModelConfig
    from mpdiag.store.files import replace_json
    from benchmarks.training_memory import training_step
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
    peaks = [peak_of(name, job) for name, job in jobs.items()]
    _show(memory_table(peaks))
    if json_file is not None:
        replace_json(json_file, {"peaks": [peak.as_json() for peak in peaks]})


@bench_app.command("train")
def bench_train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a YAML file.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps to time.")] = 20,
    peer: Annotated[bool, typer.Option(help="transformers' Mask2Former beside ours.")] = True,
    official: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A checkout of Mask2Former or MP-Former: its model and loss, too. Needs "
            "detectron2.",
        ),
    ] = None,
    json_file: Json = None,
) -> None:
    """A training step of the baseline and of multi-layer MP, phase by phase, and peers'."""
    from mpdiag.store.files import replace_json
    from benchmarks.training import bench_training, table
    from trainers.recipe import load_recipe

    timings = bench_training(
        load_recipe(recipe, changes or []), steps=steps, peer=peer, official=official
    )
    if json_file is not None:
        replace_json(json_file, {"timings": [timing.as_json() for timing in timings]})
    _show(table(timings))
