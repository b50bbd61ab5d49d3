"""Table 1 of the paper for any runs: mIoU-L and Util of layers 1..L, above the paper's rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import rich.table
from rich.text import Text

from mpdiag.errors import RunError
from mpdiag.store import Run, Thresholds
from reports import paper
from reports.document import Row, Table
from reports.formatting import NO_VALUE, UNAVAILABLE, format_percents, part_name

Values = tuple[float | None, ...]

_NOTE = (
    "Percent. mIoU-Lⁱ: IoU of the masks that a query predicts in layers i−1 and i, averaged over "  # noqa: RUF001
    "all queries of all images; pairs of two empty masks are left out. Layer 0 is the prediction "
    "before the first decoder layer. Utilⁱ: share of an image's objects whose query in layer i is "
    "also their query in the last layer, averaged over the images that have objects. * Queries of "
    "the MP part, matched again by bipartite matching; with their own objects as matches they "
    "would have 100% by construction. (paper): published for the paper's models in Table 1 of "
    f"MP-Former (CVPR 2023). {UNAVAILABLE}: not available. {NO_VALUE}: there is nothing to average."
)


@dataclass(frozen=True, slots=True)
class Table1Row:
    """mIoU-L and Util of one model and part; fractions of layers 1..L, None where unknown."""

    name: str
    part: str
    source: Literal["run", "paper"]
    miou_l: Values
    util: Values

    @property
    def piloted(self) -> bool:
        """Whether the queries are those of the MP part, matched again (the paper's star)."""
        return self.part == "piloted"

    @property
    def part_name(self) -> str:
        """The part's name in reports."""
        return part_name(self.part)

    @property
    def display_name(self) -> str:
        """The name, marked if the row is the paper's."""
        return f"{self.name} (paper)" if self.source == "paper" else self.name


@dataclass(frozen=True, slots=True)
class Table1:
    """Rows of Table 1, those of runs first, and the number of layer columns."""

    rows: tuple[Table1Row, ...]
    num_layers: int

    def cells(self, row: Table1Row, metric: Literal["miou_l", "util"]) -> list[str]:
        """Return one cell per layer column, in percent."""
        values = row.miou_l if metric == "miou_l" else row.util
        missing = UNAVAILABLE if row.source == "paper" else NO_VALUE
        return format_percents(values, self.num_layers, missing)

    def from_source(self, source: Literal["run", "paper"]) -> list[Table1Row]:
        """Return the rows of the runs, or those of the paper."""
        return [row for row in self.rows if row.source == source]


def open_runs(paths: Sequence[Path], thresholds: Thresholds | None = None) -> list[Run]:
    """Open run directories, with the thresholds of their transitions.

    Raises:
        RunError: there is no path, or a run cannot be opened.
    """
    if not paths:
        raise RunError("no run; give at least one run directory")
    return [Run.open(path, thresholds or Thresholds()) for path in paths]


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Return the runs' names, numbered where several have the same name and part."""
    keys = [(run.name, str(run.header.get("part"))) for run in runs]
    total, taken = Counter(keys), set(keys)
    labels = []
    for name, part in keys:
        label, number = name, 0
        while total[name, part] > 1 and (label, part) in taken:
            number += 1
            label = f"{name} ({number})"
        taken.add((label, part))
        labels.append(label)
    return labels


def build_table1(runs: Sequence[Run]) -> Table1:
    """Return Table 1 of these runs and of the paper."""
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
    return with_paper_rows(measured)


def with_paper_rows(rows: Sequence[Table1Row]) -> Table1:
    """Return the table of these rows, followed by the paper's."""
    published = [
        Table1Row(row.model, row.part, "paper", row.miou_l, row.util) for row in paper.table1()
    ]
    everything = (*rows, *published)
    return Table1(everything, max(len(row.util) for row in everything))


def document_table(table: Table1) -> Table:
    """Return Table 1 as a table of a document."""
    layers = map(str, range(1, table.num_layers + 1))
    rows = []
    for row in table.rows:
        muted = row.source == "paper"
        star = "*" if row.piloted else ""
        rows.append(Row((row.display_name, "mIoU-Lⁱ", *table.cells(row, "miou_l")), muted, True))
        rows.append(Row((row.part_name, f"Utilⁱ{star}", *table.cells(row, "util")), muted))
    return Table("", ("", "Layer i", *layers), tuple(rows), _NOTE, label_columns=2)


def terminal_table(runs: Sequence[Path]) -> rich.table.Table:
    """Return Table 1 of run directories for a rich console."""
    table = build_table1(open_runs(runs))
    view = rich.table.Table(
        title="Table 1: percent, pairs of empty masks left out",
        caption=f"* queries of the MP part, matched again. {UNAVAILABLE} not available.",
        box=None,  # a box takes the space that the names need in a terminal of 80 columns
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    view.add_column("", overflow="fold")
    view.add_column("layer", no_wrap=True)
    for layer in range(1, table.num_layers + 1):
        view.add_column(str(layer), justify="right", no_wrap=True)
    for row in table.rows:
        star = "*" if row.piloted else ""
        view.add_row()
        view.add_row(Text(row.display_name), "mIoU-L", *table.cells(row, "miou_l"))
        view.add_row(Text(row.part_name), f"Util{star}", *table.cells(row, "util"))
    return view
