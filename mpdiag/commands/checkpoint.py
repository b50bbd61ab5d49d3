"""`mpdiag info` and `mpdiag convert`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mpdiag.commands.options import Config, Form, out


def info(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of any known form.")],
    config: Config = None,
    flops: Annotated[bool, typer.Option("--flops", help="Count and time the model too.")] = False,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH for --flops.")] = "800x1333",
) -> None:
    """Format, architecture and part sizes of a checkpoint; loads no code."""
    from mpdiag.checkpoints import load_checkpoint
    from mpdiag.checkpoints.describe import describe
    from mpdiag.models.complexity import cost_rows, parse_size

    height, width = parse_size(size)
    rows = describe(checkpoint, config).rows()
    if flops:
        rows += cost_rows(load_checkpoint(checkpoint, config).model, height, width)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(f"[bold]{escape(name)}[/]", escape(value))
    out.print(table)


def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint of any known form.")],
    destination: Annotated[Path, typer.Argument(help="A new file, or a new directory.")],
    to: Annotated[Form, typer.Option(help="The form to write.")],
    config: Config = None,
) -> None:
    """Write a checkpoint in the official (detectron2) form or as a transformers directory."""
    from mpdiag.checkpoints.convert import convert as run

    out.print(f"[bold]{escape(str(run(source, destination, to.value, config)))}[/]", soft_wrap=True)
