"""`mpdiag bench ops|analyze|train`."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from mpdiag.commands.options import Precision, out

Json = Annotated[Path | None, typer.Option("--json", help="Write the figures into this file, too.")]

bench_app = typer.Typer(help="Measure speed, side by side with peers.", no_args_is_help=True)


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
    dtype: Annotated[Precision, typer.Option(help="Of the values.")] = Precision.float32,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; a GPU where there is one by default.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Time all backends of deformable attention at the pixel decoder's sizes."""
    import torch

    from mpdiag.bench.ops import SIZES, ops_table
    from mpdiag.bench.ops import bench_ops as run
    from mpdiag.models.complexity import parse_size
    from mpdiag.store.files import replace_json

    logging.getLogger("mpdiag.ops").setLevel(logging.WARNING)  # the table names the backends
    found = run(
        [parse_size(text) for text in size or SIZES],
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        dtype=getattr(torch, dtype.value),
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
    from mpdiag.bench.analysis import analysis_table
    from mpdiag.bench.analysis import bench_analysis as run
    from mpdiag.config import ModelConfig
    from mpdiag.models.complexity import parse_size
    from mpdiag.store.files import replace_json

    found = run(images, parse_size(size), ModelConfig())
    out.print(analysis_table(found))
    if json_file is not None:
        replace_json(json_file, found.as_json())


@bench_app.command("train")
def bench_train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a YAML file.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps to time.")] = 20,
    peer: Annotated[bool, typer.Option(help="transformers' Mask2Former beside ours.")] = True,
    json_file: Json = None,
) -> None:
    """A training step of the baseline and of multi-layer MP, phase by phase, and a peer's."""
    from mpdiag.store.files import replace_json
    from trainers.bench import bench_training, table
    from trainers.recipe import load_recipe

    timings = bench_training(load_recipe(recipe, changes or []), steps=steps, peer=peer)
    if json_file is not None:
        replace_json(json_file, {"timings": [timing.as_json() for timing in timings]})
    out.print(table(timings))
