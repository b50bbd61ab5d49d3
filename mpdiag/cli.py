"""The door: each command is a few lines over a function elsewhere, imported when it is used."""

import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from mpdiag.errors import ConfigError, MpdiagError

app = typer.Typer(
    name="mpdiag",
    help="Find out where a query-based segmenter goes wrong, layer by layer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make and check data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
bench_app = typer.Typer(help="Measure speed, side by side with peers.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

out, err = Console(), Console(stderr=True)


class Part(StrEnum):
    """Which predictions are measured."""

    matching = "matching"
    piloted = "piloted"


class Task(StrEnum):
    """What a model segments."""

    instance = "instance"
    panoptic = "panoptic"
    semantic = "semantic"


class Precision(StrEnum):
    """Numbers that are computed with."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Form(StrEnum):
    """Forms of a checkpoint that can be written."""

    detectron2 = "detectron2"
    transformers = "transformers"


Config = Annotated[
    Path | None, typer.Option(help="A detectron2 YAML for what the weights do not tell.")
]
Root = Annotated[
    Path | None,
    typer.Option(help="Folder that holds the data sets, or the images of a FILE.json."),
]
Runs = Annotated[list[Path], typer.Argument(help="Run directories.", metavar="RUN...")]


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Settings of every command."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=err, show_path=False, show_time=False, show_level=False)],
    )
    logging.getLogger("PIL").setLevel(logging.INFO)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps of each, to see that all parts work.")
    ] = False,
) -> None:
    """The main job on the embedded data: train two models, analyse them, report."""
    from mpdiag.demo import run_demo

    run_demo(output, out, quick=quick)


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name, or a YAML file.", show_default=False)
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Directory of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="Show the recipes and the paper's results, and stop.")
    ] = False,
) -> None:
    """Train a recipe, as `mpdiag train synthetic-tiny method=piloted --output runs/piloted`."""
    from trainers.recipe import load_recipe, recipes

    if listing:
        from reports.recipes import WIDTH, recipe_table

        out.print(recipe_table(recipes()), width=max(out.width, WIDTH), crop=False)
        return
    if recipe is None:
        raise ConfigError(
            "which recipe? give a name that mpdiag train --list shows, or a YAML file"
        )
    from trainers.interrupt import StoppedBySignalError
    from trainers.loop import train as run

    config = load_recipe(recipe, changes or [])
    try:
        path = run(config, output or Path("runs") / Path(recipe).stem, resume=resume, console=err)
    except StoppedBySignalError as stop:
        err.print(escape(str(stop)))
        raise typer.Exit(stop.exit_status) from None
    out.print(f"[bold]{escape(str(path))}[/]", soft_wrap=True)


@app.command()
def analyze(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint or training directory.")],
    dataset: Annotated[
        str, typer.Option(help="synthetic, coco, ade20k, cityscapes, or FILE.json.")
    ],
    output: Annotated[Path, typer.Option(help="The run directory to write.")],
    config: Config = None,
    root: Root = None,
    split: Annotated[str, typer.Option(help="Part of the data set.")] = "val",
    task: Annotated[Task, typer.Option(help="Which annotations.")] = Task.instance,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
    part: Annotated[Part, typer.Option(help="Matching part or MP part.")] = Part.matching,
    save_masks: Annotated[str, typer.Option(help="worst:K, all or none.")] = "worst:50",
    match_points: Annotated[
        str | None, typer.Option(help="Points to match on, or 'all' cells.")
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="AP, PQ or mIoU of the last layer, too.")] = True,
    evaluate_layers: Annotated[
        bool, typer.Option("--evaluate-layers", help="And of every layer, as if it were the last.")
    ] = False,
    intervene: Annotated[
        list[str] | None,
        typer.Option(
            metavar="attention=SOURCE:LAYERS[:QUERIES]",
            help="Let queries attend within gt masks, the previous layer's, or none (everything) "
            "in these layers, as attention=gt:1-3. May be given several times.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
) -> None:
    """Record every layer of a model over a data set and write a run directory."""
    from mpdiag.analysis import analyze as run
    from mpdiag.analysis import torchrun_shard
    from mpdiag.analysis.settings import parse_match_points
    from mpdiag.progress import progress_bar

    with torchrun_shard() as shard, progress_bar(err, f"analysing {checkpoint.name}") as progress:
        run(
            checkpoint,
            dataset,
            output,
            config=config,
            root=root,
            split=split,
            task=task.value,
            limit=limit,
            part=part.value,
            save_masks=save_masks,
            match_points=parse_match_points(match_points),
            evaluate=evaluate,
            evaluate_layers=evaluate_layers,
            intervene=intervene or (),
            resume=resume,
            progress=progress if shard.first else None,
            shard=shard,
        )
    if shard.first:
        out.print(f"[bold]{escape(str(output))}[/]", soft_wrap=True)


@app.command()
def report(
    runs: Runs,
    output: Annotated[Path, typer.Option(help="Directory of the report.")],
    formats: Annotated[str, typer.Option(help="Comma-separated.")] = "md,html,tex,csv",
) -> None:
    """Table 1 of one or several runs, beside the paper's figures."""
    from reports import write_report

    for path in write_report(runs, output, tuple(formats.split(","))):
        out.print(escape(str(path)), soft_wrap=True)


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="A run directory.")],
    run_b: Annotated[Path, typer.Argument(help="Another one over the same images.")],
    output: Annotated[
        Path | None, typer.Option(help="Also write it to FILE.json or FILE.csv, as fractions.")
    ] = None,
    top: Annotated[int, typer.Option(help="Images and classes that moved most.", min=0)] = 10,
) -> None:
    """Paired differences of two runs over the same images, with confidence intervals."""
    from mpdiag.store import Run
    from mpdiag.store import compare as run
    from reports.comparison import comparison_tables, write_comparison

    found = run(Run.open(run_a), Run.open(run_b), top=top)
    if output is not None:
        write_comparison(found, output)
    for table in comparison_tables(found):
        out.print(table)


@app.command()
def dashboard(
    runs: Runs,
    port: Annotated[int | None, typer.Option(help="Port on this machine.")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="Open no browser.")] = False,
) -> None:
    """Look at runs in the browser."""
    from apps import launch

    raise typer.Exit(launch(runs, port=port, headless=headless))


@app.command()
def info(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of any known form.")],
    config: Config = None,
    flops: Annotated[bool, typer.Option("--flops", help="Count and time the model too.")] = False,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH for --flops.")] = "800x1333",
) -> None:
    """Format, architecture and part sizes of a checkpoint; loads no code."""
    from mpdiag.checkpoints import load_model
    from mpdiag.checkpoints.describe import describe
    from mpdiag.models.complexity import cost_rows, parse_size

    height, width = parse_size(size)
    rows = describe(checkpoint, config).rows()
    if flops:
        rows += cost_rows(load_model(checkpoint, config), height, width)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(f"[bold]{escape(name)}[/]", escape(value))
    out.print(table)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint of any known form.")],
    destination: Annotated[Path, typer.Argument(help="A new file, or a new directory.")],
    to: Annotated[Form, typer.Option(help="The form to write.")],
    config: Config = None,
) -> None:
    """Write a checkpoint in the official (detectron2) form or as a transformers directory."""
    from mpdiag.checkpoints.convert import convert as run

    out.print(f"[bold]{escape(str(run(source, destination, to.value, config)))}[/]", soft_wrap=True)


@app.command()
def doctor() -> None:
    """What is installed, which backend will run and why, which data sets are there."""
    from mpdiag.doctor import doctor as run

    for table in run():
        out.print(table)


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
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures into this file, too.")
    ] = None,
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


@data_app.command()
def synth(
    directory: Annotated[Path, typer.Argument(help="Where the data set goes.")],
    train: Annotated[int, typer.Option(help="Training images.", min=1)] = 6000,
    val: Annotated[int, typer.Option(help="Validation images.", min=1)] = 300,
    size: Annotated[int, typer.Option(help="Side of an image in pixels.", min=32)] = 96,
    seed: Annotated[int, typer.Option(help="Another seed, another data set.")] = 0,
) -> None:
    """Make the synthetic data set: overlapping textured shapes, in COCO format."""
    from mpdiag.data import generate
    from mpdiag.progress import progress_bar

    with progress_bar(err, "generating") as progress:
        path = generate(directory, train=train, val=val, size=size, seed=seed, progress=progress)
    out.print(f"[bold]{escape(str(path))}[/]", soft_wrap=True)


@data_app.command("check")
def check_data(
    path: Annotated[
        str, typer.Argument(help="A data set's folder or name, or a COCO-format FILE.json.")
    ],
    root: Root = None,
    split: Annotated[
        str | None, typer.Option(help="Part of the data set; both train and val by default.")
    ] = None,
    task: Annotated[
        Task | None, typer.Option(help="Which annotations; what a FILE.json holds by default.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Read only the first so many images.", min=1)
    ] = None,
) -> None:
    """Read a data set as training would, list what is wrong, count what it holds.

    Exit status 2 where training or evaluation would stop.
    """
    from mpdiag.data.check import check
    from mpdiag.data.check_tables import check_tables
    from mpdiag.progress import progress_bar

    splits = [split] if split else ["val"] if path.endswith(".json") else ["train", "val"]
    failed, before = False, None
    for part in splits:
        with progress_bar(err, "reading") as progress:
            checked = check(path, root=root, split=part, task=task, limit=limit, progress=progress)
        failed |= bool(checked.errors)
        if checked != before:  # as it is where the path is wrong
            for table in check_tables(checked):
                out.print(table)
        before = checked
    if failed:
        raise typer.Exit(2)


@bench_app.command("train")
def bench_train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a YAML file.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps to time.")] = 20,
    peer: Annotated[bool, typer.Option(help="transformers' Mask2Former beside ours.")] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures into this file, too.")
    ] = None,
) -> None:
    """A training step of the baseline and of multi-layer MP, phase by phase, and a peer's."""
    from mpdiag.store.files import replace_json
    from trainers.bench import bench_training, table
    from trainers.recipe import load_recipe

    timings = bench_training(load_recipe(recipe, changes or []), steps=steps, peer=peer)
    if json_file is not None:
        replace_json(json_file, {"timings": [timing.as_json() for timing in timings]})
    out.print(table(timings))


def main() -> None:
    """Run a command; what the user can mend is one sentence and exit status 2."""
    try:
        app()
    except MpdiagError as error:
        if "--debug" in sys.argv:
            raise
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)
