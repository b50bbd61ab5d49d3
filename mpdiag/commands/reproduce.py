"""`mpdiag reproduce`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mpdiag.commands.options import err, exit_on_signal, out


def reproduce(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET... [KEY=VALUE]...",
            help="table1, table3 to table7, figure1, figure4 or all; and settings to change.",
        ),
    ],
    size: Annotated[
        str, typer.Option(help="tiny: for two cores; small: for one GPU; paper: as published.")
    ] = "tiny",
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0,1,2",
    output: Annotated[
        Path | None, typer.Option(help="Directory of everything; runs/reproduce-SIZE by default.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder that holds the data sets of size paper.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Trainings side by side; as many as fit on GPUs by default.", min=1),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what there is to do and how long, and stop.")
    ] = False,
) -> None:
    """Train what is missing of the paper's tables and figures, analyse it, and report."""
    from mpdiag.reproduce import ReproductionOptions, find_size, parse_seeds
    from mpdiag.reproduce import reproduce as run

    names = [word for word in targets if "=" not in word]
    request = ReproductionOptions(
        targets=names,
        size=find_size(size, [word for word in targets if "=" in word]),
        seeds=parse_seeds(seeds),
        output=output or Path("runs") / f"reproduce-{size}",
        root=root,
        jobs=jobs,
    )
    with exit_on_signal():
        files = run(request, err, plan=plan)
    for file in files:
        out.print(escape(str(file)), soft_wrap=True)
