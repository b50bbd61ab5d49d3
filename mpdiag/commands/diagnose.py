"""`mpdiag diagnose`: what costs a model AP, and what to change."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from mpdiag.analysis.options import SourceOptions
from mpdiag.commands.model_reference import require_path, resolve_model
from mpdiag.commands.options import add_options, err, out, suggest
from mpdiag.errors import ConfigError
from mpdiag.printable import printable

if TYPE_CHECKING:
    from mpdiag.store import Run
    from mpdiag.store.diagnosis import Diagnosis

Json = Annotated[Path | None, typer.Option("--json", help="Write the diagnosis to this file.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page to this file.")]


def diagnose(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|CHECKPOINT",
            help="Run directory; or checkpoint as for mpdiag analyze, which tests more causes.",
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Data set as for mpdiag analyze.",
            show_default="that of the run, or of the checkpoint's training",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Run directory of the checkpoint, whose dashboard shows the diagnosis."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Another run or checkpoint to compare with.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="AP, PQ or mIoU, in points, that a cause must cost.", min=0)
    ] = 1.0,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep finished batches of a checkpoint in this directory, and continue from them.",
            show_default=False,
        ),
    ] = None,
    json_file: Json = None,
    html: Html = None,
    **options: Any,
) -> None:
    """Rank what costs a model AP, PQ or mIoU: what is at stake, the evidence and the remedy."""
    sources = [source] if against is None else [source, against]
    for one in sources:
        require_path(one)
    chosen = SourceOptions(**options)
    from mpdiag.analysis.shard import torchrun_shard
    from mpdiag.diagnosis.run_evidence import matching_dataset
    from mpdiag.store import Run
    from mpdiag.store.diagnosis import FILE_NAME
    from mpdiag.store.files import check_target
    from reports.diagnosis import build_diagnosis, write_diagnosis

    if run is not None and Run.exists(source):
        raise ConfigError(f"--run: is for a checkpoint, but {source} is a run; leave it out")
    for file in (json_file, html):  # before the work
        if file is not None:
            check_target(file)
    data: Any = dataset
    if run is not None:
        data = matching_dataset(Run.open(run), dataset, chosen)
    with torchrun_shard() as shard:
        others = {"threshold": threshold / 100, "cache": cache, "shard": shard}
        found = [_find_causes(one, data, options | others) for one in sources]
    if not shard.is_main_process:
        return
    diagnosis = found[0]
    name = Path(source).name
    _print(diagnosis)  # first, because a file may not be writable
    if Run.exists(source):
        run = Path(source)
        _print_checkpoint(Run.open(run), dataset, chosen.root)
    if against is not None:
        _print_difference(diagnosis, found[1], name, Path(against).name)
    for path in (json_file, None if run is None else run / FILE_NAME):
        if path is not None:
            diagnosis.write(path)
    if html is not None:
        write_diagnosis(build_diagnosis(diagnosis, name), html)
    if run is not None:
        suggest(f"mpdiag dashboard {shlex.quote(str(run))}")
    else:
        given = {"dataset": dataset, **options}
        words = [word for key, value in given.items() if value for word in (f"--{key}", str(value))]
        suggest(shlex.join(["mpdiag", "analyze", source, *words]))


def _find_causes(source: str, dataset: Any, options: Mapping[str, Any]) -> "Diagnosis":
    """Diagnose with a progress bar."""
    from mpdiag.diagnosis import diagnose as find_causes
    from mpdiag.progress import progress_bar

    with progress_bar(err, f"diagnosing {Path(source).name}") as progress:
        shown = progress if options["shard"].is_main_process else None
        model = resolve_model(source)
        return find_causes(model, dataset, progress=shown, **options)


def _print(diagnosis: "Diagnosis") -> None:
    from mpdiag.store.causes import CAUSES, DOCS
    from mpdiag.store.diagnosis import points
    from reports.diagnosis import error_costs, finding_details, found_objects

    out.print(f"{diagnosis.headline} {diagnosis.summary} {found_objects(diagnosis)}".rstrip())
    costs = error_costs(diagnosis)
    if costs:
        out.print(f"AP50 that each kind of error costs, at most: {', '.join(costs)}.")
    if not diagnosis.findings:
        out.print(
            "No tested change of input, layers, heads, queries or annotations gains as much. "
            f"--threshold lists causes that cost less. What was tested: {DOCS}",
            soft_wrap=True,
        )
        return
    table = Table("Cause", f"{diagnosis.score_label} at stake", "95% interval", "What to do")
    for finding in diagnosis.findings:
        low, high = map(points, finding.interval)
        details = finding_details(finding, diagnosis.class_names, of_layers=False)
        text = [CAUSES[finding.cause].remedy, *(f"{label}: {value}" for label, value in details)]
        table.add_row(
            finding.cause,
            points(finding.at_stake),
            f"{low} to {high}",
            "\n".join(escape(printable(line)) for line in text),
        )
    out.print(table)
    out.print(f"Causes and how they are measured: {DOCS}", soft_wrap=True)


def _print_checkpoint(run: "Run", dataset: str | None, root: Path | None) -> None:
    """Print how to test the causes that need the model."""
    entries = (run.header.get(key) for key in ("checkpoint", "dataset"))
    origin, files = (entry if isinstance(entry, dict) else {} for entry in entries)
    checkpoint, name = origin.get("path"), dataset or files.get("annotation_file")
    folder = root or (None if dataset else files.get("image_root"))
    settings = run.header.get("settings")
    processor = settings.get("image_processor") if isinstance(settings, dict) else None
    is_custom = isinstance(processor, dict) and "trial_sha256" in processor
    if is_custom or not isinstance(checkpoint, str) or not isinstance(name, str):
        return
    words = ["mpdiag", "diagnose", checkpoint, "--dataset", name]
    words += ["--root", str(folder)] if isinstance(folder, str | Path) else []
    out.print(
        "The input, attention, heads and queries are tested on the checkpoint: "
        + escape(printable(shlex.join([*words, "--run", str(run.path)]))),
        soft_wrap=True,
    )


def _print_difference(first: "Diagnosis", second: "Diagnosis", name: str, other: str) -> None:
    """Print the AP at stake of each cause in both, largest difference first."""
    from mpdiag.store.diagnosis import points

    label, difference = first.score_label, points(first.score - second.score)
    out.print(f"{label} of {escape(name)} minus {label} of {escape(other)}: {difference}")
    costs = [{one.cause: one.at_stake for one in found.findings} for found in (first, second)]
    causes = sorted(
        {*costs[0], *costs[1]}, key=lambda x: -abs(costs[0].get(x, 0) - costs[1].get(x, 0))
    )
    if not causes:
        return
    table = Table("Cause", escape(name), escape(other), "Difference")
    for cause in causes:
        own, others = (cost.get(cause, 0.0) for cost in costs)
        table.add_row(cause, points(own), points(others), points(own - others))
    out.print(table)


add_options(
    diagnose,
    SourceOptions,
    limit={"show_default": "all of a run, else 500, or 200 for PQ and mIoU"},
    task={
        "help": "Annotations to use, and so the score: instance (AP), panoptic (PQ) or semantic "
        "(mIoU)."
    },
)
