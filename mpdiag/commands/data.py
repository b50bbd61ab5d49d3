"""`mpdiag data synth|check`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mpdiag.commands.options import Root, Task, err, out

data_app = typer.Typer(help="Make and check data sets.", no_args_is_help=True)


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
        str | None,
        typer.Option(help="Part of the data set; both, or what the name says, by default."),
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
    from mpdiag.data import DETECTRON2_NAMES
    from mpdiag.data.check import check
    from mpdiag.data.check_tables import check_tables
    from mpdiag.progress import progress_bar

    one = split is not None or path.endswith(".json") or path in DETECTRON2_NAMES
    splits = [split] if one else ["train", "val"]
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
