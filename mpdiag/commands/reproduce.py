"""`mpdiag reproduce`."""

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mpdiag.commands.options import err, exit_on_signal, out, suggest


def reproduce(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET... [KEY=VALUE]...",
            help="table1, table3 to table7, figure1, figure4 or all; attention, noise, query-input "
            "(not in the paper's tables); and settings to override.",
        ),
    ],
    size: Annotated[
        str,
        typer.Option(
            help="tiny, photos or photos-nuclei (two CPU cores), small (one GPU) or paper (as "
            "published)."
        ),
    ] = "tiny",
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated seeds.",
            show_default="0,1,2; with --report-only those of the directory",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Output directory.", show_default="runs/reproduce-SIZE"),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets at sizes photos and paper.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Number of concurrent trainings.",
            min=1,
            show_default="one on a CPU, as many as fit on GPUs",
        ),
    ] = None,
    only: Annotated[
        str,
        typer.Option(help="Comma-separated trainings to run, in this order.", show_default="all"),
    ] = "",
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run no job; report on the existing trainings.")
    ] = False,
    images: Annotated[
        bool,
        typer.Option(
            "--images/--no-images", help="Draw masks over the images, or on a plain ground."
        ),
    ] = True,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the jobs, their time and disk space, and stop.")
    ] = False,
) -> None:
    """Reproduce tables and figures of the paper: train, analyse and report what is missing."""
    from mpdiag.reproduce import ReproductionOptions, parse_seeds, select_size
    from mpdiag.reproduce import reproduce as run
    from mpdiag.reproduce.directory import ReproductionDirectory
    from mpdiag.store.lock import lock_directory

    output = output or Path("runs") / f"reproduce-{size}"
    default_seeds = (ReproductionDirectory(output).seeds() if report_only else []) or [0, 1, 2]
    options = ReproductionOptions(
        targets=[word for word in targets if "=" not in word],
        size=select_size(size, [word for word in targets if "=" in word]),
        seeds=default_seeds if seeds is None else parse_seeds(seeds),
        output=output,
        root=root,
        jobs=jobs,
        only=[name.strip() for name in only.split(",") if name.strip()],
        show_images=images,
    )
    # A report may be written while another process trains.
    locked = nullcontext() if plan or report_only else lock_directory(options.output)
    with exit_on_signal(), locked:
        files = run(options, err, plan=plan, report_only=report_only)
    for file in files:
        out.print(escape(str(file)), soft_wrap=True)
    runs = f"{shlex.quote(str(options.output))}/runs/*"
    suggest(options.command() if plan else f"mpdiag dashboard {runs}")
