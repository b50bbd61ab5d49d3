"""Table 1 of the paper for any runs: mIoU-L and Util of layers 1..L, the paper's figures below."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import rich.box
import rich.table
from rich.text import Text

from mpdiag.errors import RunError
from mpdiag.store import Run, Thresholds
from reports import paper
from reports.formatting import NO_VALUE, UNAVAILABLE, format_percents, part_name

Values = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Table1Row:
    """One row pair; values are fractions of layers 1..L, None where there is none."""

    name: str
    part: str
    source: Literal["run", "paper"]
    miou_l: Values
    util: Values

    @property
    def piloted(self) -> bool:
        """Whether the queries are those of the MP part, re-matched: the paper's star."""
        return self.part == "piloted"

    @property
    def part_name(self) -> str:
        """The part in words."""
        return part_name(self.part)


@dataclass(frozen=True, slots=True)
class Table1:
    """The row pairs, runs first, and the number of layer columns."""

    series: tuple[Table1Row, ...]
    num_layers: int

    def cells(self, series: Table1Row, metric: Literal["miou_l", "util"]) -> list[str]:
        """The row's texts, one a layer column, in percent."""
        values = series.miou_l if metric == "miou_l" else series.util
        missing = UNAVAILABLE if series.source == "paper" else NO_VALUE
        return format_percents(values, self.num_layers, missing)

    def of(self, source: Literal["run", "paper"]) -> list[Table1Row]:
        """The row pairs of the runs, or those of the paper."""
        return [series for series in self.series if series.source == source]


def open_runs(paths: Sequence[Path], thresholds: Thresholds | None = None) -> list[Run]:
    """Open run directories; RunError where there is none or one can't be opened.

    `thresholds` are those by which they name their transitions, if not the usual ones.
    """
    if not paths:
        raise RunError("No run was given: name at least one run directory")
    return [Run.open(path, thresholds or Thresholds()) for path in paths]


def run_labels(runs: Sequence[Run]) -> list[str]:
    """The runs' names; those that share name and part are numbered."""
    keys = [(run.name, str(run.header.get("part"))) for run in runs]
    total, seen = Counter(keys), Counter[tuple[str, str]]()
    names = []
    for key in keys:
        seen[key] += 1
        names.append(f"{key[0]} ({seen[key]})" if total[key] > 1 else key[0])
    return names


def build_table(runs: Sequence[Run]) -> Table1:
    """Table 1 of these runs, with mIoU-L over the pairs that are not both empty."""
    measured = [
        Table1Row(
            name,
            str(run.header.get("part", "unknown")),
            "run",
            tuple(layer["miou_l"] for layer in run.summary["layers"]),
            tuple(layer["util"] for layer in run.summary["layers"]),
        )
        for name, run in zip(run_labels(runs), runs, strict=True)
    ]
    published = [
        Table1Row(row.model, row.part, "paper", row.miou_l, row.util) for row in paper.table1()
    ]
    series = (*measured, *published)
    return Table1(series, max(len(one.util) for one in series))


def print_table(runs: Sequence[Path]) -> rich.table.Table:
    """Table 1 for the terminal, to be printed on a rich console."""
    table = build_table(open_runs(runs))
    view = rich.table.Table(
        title="Table 1: percent, pairs of empty masks left out",
        caption=f"* queries of the MP part, matched again. {UNAVAILABLE} not legible in our copy.",
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    view.add_column("", overflow="fold")
    view.add_column("layer", no_wrap=True)
    for layer in range(1, table.num_layers + 1):
        view.add_column(str(layer), justify="right", no_wrap=True)
    for source in ("run", "paper"):
        for series in table.of(source):
            name = series.name if source == "run" else f"{series.name} (paper)"
            star = "*" if series.piloted else ""
            view.add_row(Text(name), "mIoU-L", *table.cells(series, "miou_l"))
            view.add_row(Text(series.part_name), f"Util{star}", *table.cells(series, "util"))
            view.add_section()
    return view
