"""`mpdiag export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from mpdiag.commands.options import err, out


def export(
    run: Annotated[Path, typer.Argument(help="Run directory of the matching part.")],
    to: Annotated[Literal["coco", "fiftyone"], typer.Option(help="Format to write.")] = "coco",
    output: Annotated[
        Path | None, typer.Option(help="Folder to write.", show_default="RUN-FORMAT")
    ] = None,
) -> None:
    """Write the detections of every layer that a run has for other tools.

    coco: one COCO results file per layer. fiftyone: a FiftyOne dataset with one label field per
    layer. Analyse with --evaluate-layers to store the detections of every layer.
    """
    from mpdiag.export import EXPORTERS, layers_with_detections
    from mpdiag.store import Run

    opened = Run.open(run)
    where = output or opened.path.resolve().parent / f"{opened.path.resolve().name}-{to}"
    for path in EXPORTERS[to](opened, where):
        out.print(escape(str(path)), soft_wrap=True)
    if layers_with_detections(opened) == [opened.num_layers]:
        err.print(
            "Only the last layer has detections; analyse with --evaluate-layers to export all",
            soft_wrap=True,
        )
    err.print("Next: docs/how-to/export.md shows how to open them", soft_wrap=True)
