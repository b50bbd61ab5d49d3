"""`mpdiag report`, `mpdiag compare` and `mpdiag dashboard`: commands that read finished runs."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mpdiag.commands.options import Runs, out, suggest
from mpdiag.extras import require


def report(
    runs: Runs,
    output: Annotated[
        Path | None, typer.Option(help="Report directory.", show_default="RUN-report")
    ] = None,
    formats: Annotated[
        str, typer.Option(help="Comma-separated output formats.")
    ] = "md,html,tex,csv",
    html: Annotated[
        bool,
        typer.Option("--html", help="Write one page about one run: findings and worst images."),
    ] = False,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Threshold that separates classes of transitions, for example kept_iou=0.8; "
            "one of kept_iou, object_iou, several. Can be repeated.",
        ),
    ] = None,
) -> None:
    """Write a report of one or more runs: findings, metrics by layer, and the paper's Table 1."""
    from mpdiag.config import parse, parse_overrides
    from mpdiag.store import Thresholds
    from reports import write_findings, write_report

    thresholds = parse(Thresholds, parse_overrides(threshold or []), "--threshold")
    run = runs[0]
    if run.name in ("", ".."):  # for example "." and "../..", which have no name to extend
        run = run.resolve()
    where = output or run.parent / f"{run.name}-report"
    words = tuple(word.strip() for word in formats.split(","))
    written = (
        write_findings(runs, where, thresholds)
        if html
        else write_report(runs, where, words, thresholds)
    )
    for path in written:
        out.print(escape(str(path)), soft_wrap=True)
    suggest(f"mpdiag dashboard {_words(*runs)}")


def compare(
    run_a: Annotated[Path, typer.Argument(help="Run directory.")],
    run_b: Annotated[Path, typer.Argument(help="Run directory over the same images.")],
    output: Annotated[
        Path | None, typer.Option(help="Also write the result to this .json or .csv file.")
    ] = None,
    top: Annotated[
        int, typer.Option(help="Number of most changed images and classes to list.", min=0)
    ] = 10,
) -> None:
    """Compare two runs over the same images: paired differences with confidence intervals."""
    from mpdiag.store import Run
    from mpdiag.store import compare as run
    from reports.comparison import comparison_tables, write_comparison

    found = run(Run.open(run_a), Run.open(run_b), top=top)
    if output is not None:
        write_comparison(found, output)
    for table in comparison_tables(found):
        out.print(table)
    suggest(f"mpdiag dashboard {_words(run_a, run_b)}")


def _words(*paths: Path) -> str:
    return shlex.join(map(str, paths))


def dashboard(
    runs: Runs,
    port: Annotated[int | None, typer.Option(help="Port of the local server.")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="Do not open a browser.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint to run on images that you upload.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Device that runs the checkpoint: cpu, cuda or cuda:N.",
            show_default="cuda, else cpu",
        ),
    ] = None,
) -> None:
    """Open the dashboard of one or more runs in the browser."""
    from apps import launch

    for package in ("streamlit", "plotly"):
        require(package, "the dashboard")
    if device is not None:
        from mpdiag.ops.devices import find_device

        find_device(device)
    raise typer.Exit(
        launch(runs, port=port, headless=headless, checkpoint=checkpoint, device=device)
    )
