"""`mpdiag diagnose`: what costs a model AP, and what to change."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mpdiag.commands.options import Root, err, out


def diagnose(
    source: Annotated[
        str, typer.Argument(metavar="RUN|CHECKPOINT", help="Run directory, or checkpoint.")
    ],
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set as for `mpdiag analyze`.", show_default="that of the run"),
    ] = None,
    root: Root = None,
    split: Annotated[str | None, typer.Option(help="Split of the data set.")] = None,
    limit: Annotated[int | None, typer.Option(help="Number of images to use.", min=1)] = None,
    threshold: Annotated[
        float, typer.Option(help="AP, in points, that a finding must cost.", min=0)
    ] = 1.0,
    device: Annotated[str | None, typer.Option(help="Device that runs the model.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the diagnosis to this file.")
    ] = None,
) -> None:
    """Rank the causes that cost a model AP, with the AP at stake, evidence and remedy."""
    from mpdiag.diagnosis import diagnose as run
    from mpdiag.progress import progress_bar
    from mpdiag.store.files import replace_file

    done = 0
    with progress_bar(err, f"diagnosing {Path(source).name}") as update:

        def progress(images: int) -> None:
            nonlocal done
            done += images
            update(done, done)

        diagnosis = run(
            source, dataset, threshold=threshold / 100, progress=progress, root=root, split=split,
            limit=limit, device=device,
        )  # fmt: skip
    if json_file is not None:
        text = json.dumps(diagnosis.as_json(), indent=2, allow_nan=False)
        replace_file(json_file, text.encode())
    out.print(f"AP {100 * diagnosis.score:.1f} on {diagnosis.num_images:,} images")
    if not diagnosis.findings:
        out.print(f"Nothing found that costs more than {threshold:g} AP.")
        return
    table = Table("cause", "AP at stake", "95% interval", "remedy")
    for finding in diagnosis.findings:
        low, high = (100 * end for end in finding.interval)
        table.add_row(
            finding.cause, f"{100 * finding.at_stake:+.1f}", f"{low:+.1f} to {high:+.1f}",
            escape(finding.remedy),
        )  # fmt: skip
    out.print(table)
