"""The `mpdiag` command: registers all commands and handles their errors."""

import importlib.util
import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.logging import RichHandler
from rich.markup import escape

from mpdiag import __version__
from mpdiag.allocator import keep_freed_memory, use_expandable_segments
from mpdiag.commands.analyze import analyze
from mpdiag.commands.bench import bench_app
from mpdiag.commands.checkpoint import convert, info
from mpdiag.commands.data import data_app
from mpdiag.commands.diagnose import diagnose
from mpdiag.commands.export import export
from mpdiag.commands.options import err, out, suggest
from mpdiag.commands.reproduce import reproduce
from mpdiag.commands.runs import compare, dashboard, report
from mpdiag.commands.train import train
from mpdiag.errors import ConfigError, MpdiagError, describe_os_error
from mpdiag.extras import missing_of
from mpdiag.printable import printable

# Of click, or of the copy of click in newer releases of typer.
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="mpdiag",
    help="Diagnose query-based segmentation models, decoder layer by decoder layer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"mpdiag {__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Configure logging for every command."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=err, show_path=False, show_time=False, show_level=False)],
    )
    logging.getLogger("PIL").setLevel(logging.INFO)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)


def demo(
    output: Annotated[
        Path | None,
        typer.Option(
            help="Output directory.", show_default="runs/demo, or runs/demo-quick with --quick"
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Use packaged models in place of training: about 20 seconds."),
    ] = False,
) -> None:
    """Train two tiny models on synthetic data, analyse them, and write a report."""
    from mpdiag.demo import run_demo, run_quick_demo

    if quick:
        run_quick_demo(output or Path("runs/demo-quick"), out)
    else:
        run_demo(output or Path("runs/demo"), out)


def doctor() -> None:
    """Show installed packages, available backends, and data sets that were found."""
    from mpdiag.doctor import doctor as run

    for table in run():
        out.print(table)
    suggest("mpdiag demo --quick")


def _add_commands(panel: str, *commands: Callable[..., None], **context: bool) -> None:
    for command in commands:
        app.command(rich_help_panel=panel, context_settings=context)(command)


_add_commands("Diagnose a model", analyze, diagnose, report, compare, dashboard, export)
_add_commands("Checkpoints and data sets", info, convert)
app.add_typer(data_app, name="data", rich_help_panel="Checkpoints and data sets")
# Values of detectron2 settings can be negative, which looks like an option.
_add_commands("Train", train, ignore_unknown_options=True)
_add_commands("Train", reproduce)
_add_commands("Try and measure mpdiag", demo, doctor)
app.add_typer(bench_app, name="bench", rich_help_panel="Try and measure mpdiag")


def main() -> None:
    """Run a command. A user error prints one line and exits with code 2."""
    keep_freed_memory()
    use_expandable_segments()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may not exist in the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        _check_packages()
        status = app(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # of click 8.2 and later
            error.show()
            sys.exit(2)
        command = error.ctx.command_path if error.ctx else "mpdiag"
        _exit_with_error(f"{error.format_message().rstrip('.')}; see `{command} --help`")
    except typer.Abort:
        sys.exit(1)
    except MpdiagError as error:
        if "--debug" in sys.argv:
            raise
        _exit_with_error(str(error))
    except ModuleNotFoundError as error:
        missing = missing_of(error)
        if missing is None or "--debug" in sys.argv:
            raise
        _exit_with_error(str(missing))
    except OSError as error:  # a path that is not writable or no directory, or a full disk
        if "--debug" in sys.argv or error.filename is None:
            raise
        reason = describe_os_error(error, Path(os.fsdecode(error.filename)))
        _exit_with_error(f"{error.filename}: cannot be used ({reason}); choose another path")


def _check_packages() -> None:
    """Raise ConfigError if a package of another project would be imported in place of ours."""
    parent = Path(__file__).resolve().parents[1]
    for name in ("apps", "reports", "trainers"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin and Path(spec.origin).resolve().parents[1] != parent:
            raise ConfigError(
                f"{spec.origin}: hides the package {name!r} of mpdiag; start mpdiag in another "
                "directory, or as `mpdiag` or `torchrun --no-python mpdiag` in place of `-m mpdiag`"
            )


def _exit_with_error(message: str) -> NoReturn:
    text = escape(printable(message))
    err.print(f"[bold red]error:[/] {text}", soft_wrap=True, highlight=False)
    sys.exit(2)
