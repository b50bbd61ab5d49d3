"""Options and consoles that commands share."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from mpdiag.analysis.options import SourceOptions
from mpdiag.printable import escape_invisible


class SafeConsole(Console):
    """A console that prints no control characters of the texts that it gets."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escape_invisible(text), style, control)


out, err = SafeConsole(emoji=False), SafeConsole(stderr=True, emoji=False)


def _option(field: Field[Any], **changes: Any) -> Any:
    """Return the option of a field of `SourceOptions`, with some arguments of `typer.Option`."""
    flag = [f"--{field.name.replace('_', '-')}"] if field.default is False else []
    given = {"help": field.metadata["help"], **field.metadata["command_line"], **changes}
    return typer.Option(*flag, **given)


_FIELDS = {field.name: field for field in fields(SourceOptions)}
Config = Annotated[Path | None, _option(_FIELDS["config"])]
Root = Annotated[Path | None, _option(_FIELDS["root"])]
Runs = Annotated[list[Path], typer.Argument(help="Run directories.", metavar="RUN...")]


def add_options(
    command: Callable[..., None], options: type[SourceOptions], **changes: dict[str, Any]
) -> None:
    """Replace `**options` of a command by an option for each field of a class of options.

    Args:
        command: the command; typer reads its parameters from the signature.
        options: the class.
        **changes: other arguments of `typer.Option`, by field.
    """
    own = inspect.signature(command).parameters.values()
    parameters = [one for one in own if one.kind != one.VAR_KEYWORD]
    # typer supports neither tuples of any length nor unions.
    types = get_type_hints(options) | {"intervene": list[str], "match_points": str | None}
    for field in fields(options):
        kind, info = types[field.name], _option(field, **changes.get(field.name, {}))
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[kind, info],
            )
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]


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
