"""A report as Markdown, HTML, LaTeX or CSV.

Each text format is one template.
"""

import base64
import csv
import io
from dataclasses import dataclass

from jinja2 import Environment

from mpdiag.store import Run
from mpdiag.store.consistency import COLUMNS
from reports.formatting import NO_VALUE, UNAVAILABLE, escape_formula
from reports.run_facts import CONVENTIONS, RunFacts
from reports.table1 import Table1, run_labels
from reports.templating import html_environment, latex_environment, markdown_environment


@dataclass(frozen=True, slots=True)
class Report:
    """All that the templates show."""

    date: str
    version: str
    table: Table1
    runs: tuple[RunFacts, ...]


def markdown(report: Report, figure: str) -> str:
    """The report in Markdown; `figure` is the file name of the curves."""
    return _render(markdown_environment(), "report.md", report, figure=figure)


def html(report: Report, svg: bytes) -> str:
    """The report as one HTML page that needs no other file; `svg` are the curves."""
    uri = "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
    return _render(html_environment(), "report.html", report, figure=uri)


def latex(report: Report) -> str:
    """The tables for a LaTeX document that uses booktabs."""
    return _render(latex_environment(), "table1.tex", report)


def long_csv(runs: list[Run], table: Table1) -> str:
    """One row a value, as in summary.json: what it says of layers, and the paper's figures.

    An unknown value is an empty field.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["source", "run", "part", "metric", "layer", "value"])
    for name, run in zip(run_labels(runs), runs, strict=True):
        start = ["run", escape_formula(name), run.header.get("part", "unknown")]
        writer.writerow([*start, "util", 0, run.summary.get("util_m0")])
        first = {k: v for k, v in run.summary.get("m0", {}).items() if v is not None}
        every = [{"layer": 0, **first}, *run.summary["layers"]]
        for key in [*(key for key, _ in CONVENTIONS), *COLUMNS]:
            for layer in every:
                if key in layer:
                    writer.writerow([*start, key, layer["layer"], layer[key]])
    for series in table.of("paper"):
        for metric, values in (("miou_l", series.miou_l), ("util", series.util)):
            for layer, value in enumerate(values, 1):
                writer.writerow(["paper", series.name, series.part, metric, layer, value])
    return stream.getvalue()


def _render(environment: Environment, template: str, report: Report, **more: str) -> str:
    return environment.get_template(template).render(
        report=report,
        table=report.table,
        layers=range(1, report.table.num_layers + 1),
        unknown=UNAVAILABLE,
        no_value=NO_VALUE,
        **more,
    )
