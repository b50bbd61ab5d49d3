"""Options and consoles that commands share."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from mpdiag.printable import escape_invisible


class SafeConsole(Console):
    """A console that prints no control characters of the texts that it gets."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escape_invisible(text), style, control)


out, err = SafeConsole(emoji=False), SafeConsole(stderr=True, emoji=False)

Config = Annotated[
    Path | None,
    typer.Option(help="detectron2 YAML file, for settings that the weights do not contain."),
]
Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the data sets, or image folder of a FILE.json.",
        show_default="$DETECTRON2_DATASETS, else datasets/",
    ),
]
Runs = Annotated[list[Path], typer.Argument(help="Run directories.", metavar="RUN...")]


def suggest(*commands: str) -> None:
    """Print what to run next, as the last line of a command. Standard output stays parseable."""
    err.print(f"Next: {escape(', or '.join(commands))}", soft_wrap=True, highlight=False)


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """Print one line and exit with the signal's status when a signal stops a training."""
    from trainers.signals import StoppedBySignalError

    try:
        yield
    except StoppedBySignalError as stop:
        err.print(escape(str(stop)))
        raise typer.Exit(stop.exit_status) from None
