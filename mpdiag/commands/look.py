"""What is done with finished runs: `mpdiag report`, `compare` and `dashboard`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mpdiag.commands.options import Runs, out


def report(
    runs: Runs,
    output: Annotated[
        Path | None, typer.Option(help="Directory of the report; RUN-report by default.")
    ] = None,
    formats: Annotated[str, typer.Option(help="Comma-separated.")] = "md,html,tex,csv",
    html: Annotated[
        bool,
        typer.Option("--html", help="One page about one run: findings, worst pairs, tables."),
    ] = False,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Where classes of transitions part: kept_iou, object_iou or several, as "
            "kept_iou=0.8. May be given several times.",
        ),
    ] = None,
) -> None:
    """Table 1 of one or several runs, beside the paper's figures; or all about one of them."""
    from mpdiag.config import overrides, parse
    from mpdiag.store import Thresholds
    from reports import write_findings, write_report

    thresholds = parse(Thresholds, overrides(threshold or []), "--threshold")
    where = output or runs[0].with_name(f"{runs[0].resolve().name}-report")
    written = (
        write_findings(runs, where, thresholds)
        if html
        else write_report(runs, where, tuple(formats.split(",")), thresholds)
    )
    for path in written:
        out.print(escape(str(path)), soft_wrap=True)


def compare(
    run_a: Annotated[Path, typer.Argument(help="A run directory.")],
    run_b: Annotated[Path, typer.Argument(help="Another one over the same images.")],
    output: Annotated[
        Path | None, typer.Option(help="Also write it to FILE.json or FILE.csv, as fractions.")
    ] = None,
    top: Annotated[int, typer.Option(help="Images and classes that moved most.", min=0)] = 10,
) -> None:
    """Paired differences of two runs over the same images, with confidence intervals."""
    from mpdiag.store import Run
    from mpdiag.store import compare as run
    from reports.comparison import comparison_tables, write_comparison

    found = run(Run.open(run_a), Run.open(run_b), top=top)
    if output is not None:
        write_comparison(found, output)
    for table in comparison_tables(found):
        out.print(table)


def dashboard(
    runs: Runs,
    port: Annotated[int | None, typer.Option(help="Port on this machine.")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="Open no browser.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint to run images of your own through.")
    ] = None,
) -> None:
    """Look at runs in the browser."""
    from apps import launch

    raise typer.Exit(launch(runs, port=port, headless=headless, checkpoint=checkpoint))
