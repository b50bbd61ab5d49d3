"""The door: every command, and what they all share."""

import logging
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.logging import RichHandler
from rich.markup import escape

from mpdiag.allocator import keep_freed_memory
from mpdiag.commands.analyze import analyze
from mpdiag.commands.bench import bench_app
from mpdiag.commands.checkpoint import convert, info
from mpdiag.commands.data import data_app
from mpdiag.commands.look import compare, dashboard, report
from mpdiag.commands.options import err, out
from mpdiag.commands.reproduce import reproduce
from mpdiag.commands.train import train
from mpdiag.errors import MpdiagError

app = typer.Typer(
    name="mpdiag",
    help="Find out where a query-based segmenter goes wrong, layer by layer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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


# A value of detectron2's may be below zero, which looks like an option.
app.command(context_settings={"ignore_unknown_options": True})(train)
for command in (analyze, report, compare, reproduce, dashboard, info, convert):
    app.command()(command)


@app.command()
def doctor() -> None:
    """What is installed, which backend will run and why, which data sets are there."""
    from mpdiag.doctor import doctor as run

    for table in run():
        out.print(table)


app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")


def main() -> None:
    """Run a command; what the user can mend is one sentence and exit status 2."""
    keep_freed_memory()
    try:
        app()
    except MpdiagError as error:
        if "--debug" in sys.argv:
            raise
        _refuse(str(error))
    except OSError as error:  # of a path: not writable, no directory, a full disk
        if "--debug" in sys.argv or error.filename is None:
            raise
        _refuse(f"{error.filename} can't be used ({error.strerror}): give another place")


def _refuse(sentence: str) -> NoReturn:
    err.print(f"[bold red]error:[/] {escape(sentence)}", soft_wrap=True, highlight=False)
    sys.exit(2)
