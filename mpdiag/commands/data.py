"""`mpdiag data synth`, `mpdiag data check` and `mpdiag data prepare`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mpdiag.choices import Task
from mpdiag.commands.options import Root, err, out, suggest
from mpdiag.errors import DataError

_PICTURES = 24  # images of `data check --pictures`

data_app = typer.Typer(help="Generate, check and prepare data sets.", no_args_is_help=True)


@data_app.command()
def synth(
    directory: Annotated[Path, typer.Argument(help="Directory to write the data set to.")],
    train: Annotated[int, typer.Option(help="Number of training images.", min=1)] = 6000,
    val: Annotated[int, typer.Option(help="Number of validation images.", min=1)] = 300,
    size: Annotated[int, typer.Option(help="Height and width in pixels.", min=32)] = 96,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Generate the synthetic data set: overlapping textured shapes, in COCO format."""
    from mpdiag.data import generate_synthetic
    from mpdiag.progress import progress_bar

    with progress_bar(err, "generating") as progress:
        path = generate_synthetic(
            directory, train=train, val=val, size=size, seed=seed, progress=progress
        )
    out.print(f"[bold]{escape(str(path))}[/]", soft_wrap=True)
    suggest(f"mpdiag data check {shlex.quote(str(directory))}")


@data_app.command("check")
def check_data(
    dataset: Annotated[
        str, typer.Argument(help="Data set name, data set folder, or COCO-format FILE.json.")
    ],
    root: Root = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split to check.", show_default="the split of the name, else both"),
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(help="Annotations to read.", show_default="those of FILE.json, else instance"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Number of images to read.", min=1, show_default="all")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="HTML file to write: training images after augmentation, with masks."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Recipe whose augmentation --pictures shows.")
    ] = "table4-1-mask2former",
) -> None:
    """Read a data set as training does, list all problems, and count objects by class.

    Exits with code 2 if the data set has an error that would stop training or evaluation.
    """
    from mpdiag.data import DETECTRON2_NAMES
    from mpdiag.data.check import check_dataset
    from mpdiag.data.check_tables import check_tables
    from mpdiag.progress import progress_bar

    one_split = split is not None or dataset.endswith(".json") or dataset in DETECTRON2_NAMES
    failed, previous = False, None
    for current in [split] if one_split else ["train", "val"]:
        with progress_bar(err, "reading") as progress:
            result = check_dataset(
                dataset, root=root, split=current, task=task, limit=limit, progress=progress
            )
        failed |= bool(result.errors)
        if result != previous:  # both splits give the same result where the path is wrong
            for table in check_tables(result):
                out.print(table)
        previous = result
    if failed:
        raise typer.Exit(2)
    if pictures is not None:
        _write_pictures(pictures, recipe, dataset, root, split if one_split else "train", task)
        out.print(f"[bold]{escape(str(pictures))}[/]", soft_wrap=True)
    given = {"--dataset": dataset, "--root": root, "--split": split, "--task": task}
    words = [word for key, value in given.items() if value for word in (key, str(value))]
    suggest(shlex.join(["mpdiag", "analyze", "CHECKPOINT", *words]))


def _write_pictures(
    path: Path, recipe: str, dataset: str, root: Path | None, split: str | None, task: Task | None
) -> None:
    """Write a page of the first training images of a recipe, as training gets them."""
    from mpdiag.data import TrainingBatches, build_augmentation, load_dataset
    from mpdiag.store.files import replace_file
    from reports.contact_sheet import LabelledImage, contact_sheet
    from reports.document import render_html
    from trainers.recipe import load_recipe

    config = load_recipe(recipe)
    data = load_dataset(dataset, root=root, split=split, task=task)
    batches = TrainingBatches(
        data,
        min(_PICTURES, len(data)),
        config.seed,
        transform=build_augmentation(config.data),
        filter_empty=True,
    )
    images = [
        LabelledImage(
            sample.file_name,
            sample.image.permute(1, 2, 0).numpy(),
            sample.masks.numpy(),
            [data.classes[label].name for label in sample.labels.tolist()],
        )
        for sample in next(batches.start(0))
    ]
    text = (
        f"Images of {data.name} after the augmentation of recipe {recipe}, with training targets."
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, render_html(contact_sheet(f"Training images of {data.name}", text, images)))


@data_app.command()
def prepare(
    dataset: Annotated[
        str,
        typer.Argument(
            help="With --from: facade or nuclei. With --tiles: data set name, data set folder, or "
            "FILE.json."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Argument(help="Folder to write.", show_default="DATASET in --root, with --from"),
    ] = None,
    clone: Annotated[
        Path | None,
        typer.Option("--from", help="Clone of the public repository to prepare the data from."),
    ] = None,
    tiles: Annotated[
        int | None, typer.Option(help="Cut images into tiles of this height and width.", min=1)
    ] = None,
    scale: Annotated[int, typer.Option(help="Enlarge each tile by this factor.", min=1)] = 1,
    root: Root = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split to cut.",
            show_default="both; val of FILE.json; give one for a registered name",
        ),
    ] = None,
) -> None:
    """Prepare a public data set from a clone of its repository, or cut a data set into tiles."""
    from mpdiag.data.public_data import prepare_public
    from mpdiag.data.registry import default_root
    from mpdiag.data.tiles import prepare_tiles
    from mpdiag.progress import progress_bar

    if (clone is None) == (tiles is None):
        raise DataError(f"{dataset}: give --from CLONE or --tiles SIDE, one of them")
    if clone is not None:
        with progress_bar(err, "preparing") as progress:
            folder = output or (root or default_root()) / dataset
            path = prepare_public(dataset, clone, folder, progress=progress)
    else:
        assert tiles is not None
        if output is None:
            raise DataError(f"{dataset}: give the folder to write as second argument")
        splits = [split] if split else ["val"] if dataset.endswith(".json") else ["train", "val"]
        with progress_bar(err, "cutting") as progress:
            path = prepare_tiles(
                dataset,
                output,
                side=tiles,
                scale=scale,
                root=root,
                splits=splits,
                progress=progress,
            )
    out.print(f"[bold]{escape(str(path))}[/]", soft_wrap=True)
    suggest(f"mpdiag data check {shlex.quote(str(path))}")
