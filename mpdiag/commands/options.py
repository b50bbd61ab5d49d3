"""Options and consoles that commands share, and how one is stopped."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

out, err = Console(), Console(stderr=True)


class Part(StrEnum):
    """Which predictions are measured."""

    matching = "matching"
    piloted = "piloted"


class Engine(StrEnum):
    """Whose code runs a model."""

    mpdiag = "mpdiag"
    transformers = "transformers"


class Task(StrEnum):
    """What a model segments."""

    instance = "instance"
    panoptic = "panoptic"
    semantic = "semantic"


class Precision(StrEnum):
    """Numbers that are computed with."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class TrainingEngine(StrEnum):
    """Whose trainer runs."""

    mpdiag = "mpdiag"
    detectron2 = "detectron2"


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


@contextmanager
def stoppable() -> Iterator[None]:
    """A training that a signal stops ends the command with one sentence and the signal's status."""
    from trainers.interrupt import StoppedBySignalError

    try:
        yield
    except StoppedBySignalError as stop:
        err.print(escape(str(stop)))
        raise typer.Exit(stop.exit_status) from None
