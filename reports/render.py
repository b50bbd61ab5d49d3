"""A report as Markdown, HTML, LaTeX or CSV.

Each text format is one template, in an environment that escapes every value put into it.
"""

import base64
import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mpdiag.store import Run
from mpdiag.store.consistency import COLUMNS
from reports.cells import NO_VALUE, UNKNOWN
from reports.facts import CONVENTIONS, RunFacts
from reports.table1 import Table1, labels


@dataclass(frozen=True, slots=True)
class Report:
    """All that the templates show."""

    date: str
    version: str
    table: Table1
    runs: tuple[RunFacts, ...]


def markdown(report: Report, figure: str) -> str:
    """The report in Markdown; `figure` is the file name of the curves."""
    environment = _environment(finalize=lambda value: _escape_markdown(str(value)))
    return _render(environment, "report.md", report, figure=figure)


def html(report: Report, svg: bytes) -> str:
    """The report as one HTML page that needs no other file; `svg` are the curves."""
    uri = "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
    return _render(_environment(autoescape=True), "report.html", report, figure=uri)


def latex(report: Report) -> str:
    """The tables for a LaTeX document that uses booktabs."""
    environment = _environment(
        finalize=lambda value: _escape_latex(str(value)),
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    return _render(environment, "table1.tex", report)


def long_csv(runs: list[Run], table: Table1) -> str:
    """One row a value, as in summary.json: what it says of layers, and the paper's figures.

    An unknown value is an empty field.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["source", "run", "part", "metric", "layer", "value"])
    for name, run in zip(labels(runs), runs, strict=True):
        start = ["run", name, run.header.get("part", "unknown")]
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


def _environment(
    *, finalize: Callable[[Any], str] | None = None, autoescape: bool = False, **syntax: str
) -> Environment:
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=autoescape,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **syntax,  # type: ignore[arg-type]
    )
    return environment


def _render(environment: Environment, template: str, report: Report, **more: str) -> str:
    return environment.get_template(template).render(
        report=report,
        table=report.table,
        layers=range(1, report.table.num_layers + 1),
        unknown=UNKNOWN,
        no_value=NO_VALUE,
        **more,
    )


def _escape_markdown(text: str) -> str:
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", text)


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",  # noqa: RUF001
    "…": r"\dots{}",
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
