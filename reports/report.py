"""The report of runs: Table 1 beside the paper's, and the facts and layer tables of each run."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mpdiag.errors import ConfigError
from mpdiag.store import LAYER_METRICS, Run, Thresholds
from mpdiag.store.files import replace_file
from reports.document import FORMATS, Document, Picture, Section, check_output, write_document
from reports.figures import draw_curves
from reports.findings import build_findings
from reports.layer_tables import layer_tables, metric_definitions
from reports.run_facts import run_facts
from reports.table1 import Table1, build_table1, document_table, open_runs, run_labels

_EMPTY_PAIRS = (
    "A mask is the area where the logit is above 0, on the prediction grid. If both masks of a "
    "pair are empty, their IoU is not defined. Table 1 leaves such pairs out; the paper does not "
    "say how it treats them. The choice can change mIoU-L by tens of points, so the tables of the "
    "runs have every convention: empty pairs left out, counted as 0, counted as 1, and only the "
    "queries that match an object in the last layer (empty pairs left out)."
)


def write_report(
    runs: Sequence[Path],
    output: Path,
    formats: Sequence[str] = FORMATS,
    thresholds: Thresholds | None = None,
) -> list[Path]:
    """Write report.md, .html, .tex and .csv, curves.svg and curves.png to `output`.

    The files depend on the runs only, except for the date, which SOURCE_DATE_EPOCH fixes.

    Args:
        thresholds: of the transitions; None takes the defaults.

    Returns:
        The files, the report first.

    Raises:
        RunError: a run cannot be opened, or `output` is a file.
        ConfigError: a format is unknown.
    """
    output = Path(output)
    check_output(output, formats)
    opened = open_runs(runs, thresholds)
    table = build_table1(opened)
    curves = draw_curves(table, "svg")
    files = write_document(build_report(opened, table, curves), output, formats)
    for kind, content in (("svg", curves), ("png", draw_curves(table, "png"))):
        file = output / f"curves.{kind}"
        replace_file(file, content)
        files.append(file)
    return list(dict.fromkeys(files))


def write_findings(
    runs: Sequence[Path], output: Path, thresholds: Thresholds | None = None
) -> list[Path]:
    """Write findings.html about one run to `output`: one page that needs no other file.

    Raises:
        RunError: the run cannot be opened, or `output` is a file.
        ConfigError: there are several runs.
    """
    if len(runs) > 1:
        raise ConfigError(f"--html: takes one run, not {len(runs)}; give one run directory")
    (run,) = open_runs(runs, thresholds)
    return write_document(build_findings(run), Path(output), ("html",))


def build_report(runs: Sequence[Run], table: Table1, svg: bytes) -> Document:
    """Return the report of the runs, whose Table 1 is `table`, and `svg` its curves."""
    curves = Picture(
        "curves.svg",
        svg,
        "The two metrics of Table 1. The paper's curves (grey) have gaps where a figure is not "
        "available.",
        "mIoU-L and Util of each layer, for the runs and as published",
    )
    sections = [
        Section("Table 1", tables=(document_table(table),), pictures=(curves,)),
        Section("Pairs of empty masks", (_EMPTY_PAIRS,)),
        *(
            Section(f"Run {name} ({part})", facts=tuple(run_facts(run)), tables=layer_tables(run))
            for run, name, part in zip(
                runs,
                run_labels(runs),
                (row.part_name for row in table.from_source("run")),
                strict=True,
            )
        ),
        Section("Metrics", tables=(metric_definitions(),)),
    ]
    columns = ("source", "run", "part", "metric", "layer", "value")
    return Document(
        "report",
        "Layer consistency report",
        tuple(sections),
        columns,
        (*_measured_values(runs), *_published_values(table)),
    )


def _measured_values(runs: Sequence[Run]) -> Iterator[tuple[Any, ...]]:
    for label, run in zip(run_labels(runs), runs, strict=True):
        layers = run.layer_metrics().to_dict("records")
        part = run.header.get("part", "unknown")
        for name, metric in LAYER_METRICS.items():
            for layer in layers[metric.first_layer :]:
                value = None if math.isnan(layer[name]) else layer[name]
                yield "run", label, part, name, layer["layer"], value


def _published_values(table: Table1) -> Iterator[tuple[Any, ...]]:
    for row in table.from_source("paper"):
        for metric, values in (("miou_l", row.miou_l), ("util", row.util)):
            for layer, value in enumerate(values, 1):
                yield "paper", row.name, row.part, metric, layer, value
