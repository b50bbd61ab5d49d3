"""`mpdiag info` and `mpdiag convert`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mpdiag.choices import CheckpointFormat
from mpdiag.commands.options import Config, out, suggest
from mpdiag.commands.size import parse_size
from mpdiag.printable import printable


def info(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint in any supported format.")],
    config: Config = None,
    flops: Annotated[
        bool, typer.Option("--flops", help="Also count FLOPs and time a forward pass.")
    ] = False,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the image for --flops.")] = "800x1333",
) -> None:
    """Print the format, architecture and parameter counts of a checkpoint.

    Never runs code that a checkpoint contains.
    """
    from mpdiag.checkpoints import load_checkpoint
    from mpdiag.checkpoints.describe import describe
    from mpdiag.models.complexity import complexity_rows

    height, width = parse_size(size)
    rows = describe(checkpoint, config).rows()
    if flops:
        rows += complexity_rows(load_checkpoint(checkpoint, config).model, height, width)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(f"[bold]{escape(printable(name, 80))}[/]", escape(printable(value)))
    out.print(table)
    suggest(f"mpdiag analyze {shlex.quote(str(checkpoint))} --dataset DATASET")


def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint in any supported format.")],
    destination: Annotated[
        Path, typer.Argument(help="New .pth file (detectron2) or new directory (transformers).")
    ],
    to: Annotated[
        CheckpointFormat | None,
        typer.Option(
            help="Format to write.",
            show_default="detectron2 if DESTINATION is named like a file, else transformers",
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Convert a checkpoint to a detectron2 file or a transformers directory."""
    from mpdiag.checkpoints.convert import convert as run

    path = str(run(source, destination, to, config))
    out.print(f"[bold]{escape(path)}[/]", soft_wrap=True)
    suggest(f"mpdiag info {shlex.quote(path)}")
