"""The paper's tables, ours beside the paper's: mean and deviation over seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reports import paper
from reports.document import Row, Table, Value
from reports.formatting import NO_VALUE, UNAVAILABLE, format_difference, part_name
from reports.reproduction.results import MATCHING, PILOTED, SummaryMetric, TrainingResults
from reports.reproduction.seed_statistics import (
    BySeed,
    SeedStatistics,
    paired_difference,
    seed_statistics,
)
from reports.reproduction.table_rows import TableRow

AP = SummaryMetric("ap", "AP")
SIZES = (
    AP,
    SummaryMetric("ap_small", "AP_S"),
    SummaryMetric("ap_medium", "AP_M"),
    SummaryMetric("ap_large", "AP_L"),
)
UTIL, MIOU = SummaryMetric("util", "Util, mean"), SummaryMetric("miou_l", "mIoU-L, mean")
ABLATION = (AP, SummaryMetric("ap50", "AP50"), UTIL, MIOU)
EMPTY = SummaryMetric("empty_pairs", "Empty pairs, mean")
DUPLICATES = SummaryMetric("duplicates", "Duplicates, mean")
AIMS = (UTIL, MIOU, EMPTY, DUPLICATES)

DEVIATION = "Percent; ± is the standard deviation over seeds."
BY_SIZE = (
    "Sizes are COCO's: below 32, up to 96 and from 96 pixels squared; n/a: there is no such "
    "object, or no such run."
)
MEANS = (
    "Means are over the layers 1..L of the matching part, for Util without L, where it is 100% by "
    "definition."
)


@dataclass(slots=True)
class TableBuilder:
    """Tables of one section, and their numbers for the CSV."""

    target: str
    tables: list[Table] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def cell(
        self, row: TableRow, measure: SummaryMetric, values: BySeed, part: str = MATCHING
    ) -> str:
        """Mean ± deviation in percent, with all numbers behind it noted."""
        self._note(row, measure, values, part)
        found = seed_statistics(values.values())
        if found is None:
            return NO_VALUE
        deviation = "" if found.deviation is None else f" ± {100 * found.deviation:.1f}"
        return f"{100 * found.mean:.1f}{deviation}"

    def _note(self, row: TableRow, measure: SummaryMetric, values: BySeed, part: str) -> None:
        def value(seed: str, number: float | None) -> Value:
            return Value(
                self.target, "ours", row.label, part, measure.key, measure.layer, seed, number
            )

        found = seed_statistics(values.values())
        self.values += [value(str(seed), number) for seed, number in sorted(values.items())]
        if found is not None:
            self.values += [value("mean", found.mean), value("deviation", found.deviation)]

    def published(
        self, row: TableRow, measure: SummaryMetric, number: float | None, part: str = MATCHING
    ) -> None:
        """Note one of the paper's numbers."""
        self.values.append(
            Value(self.target, "paper", row.label, part, measure.key, measure.layer, "", number)
        )


def table1(rows: Sequence[TableRow], results: TrainingResults) -> TableBuilder:
    """mIoU-L and Util of every layer: each row's matching part, and the MP part where there is one.

    The paper has the MP part of its MP rows.
    """
    written = TableBuilder("table1")
    published = {row.label: series for row, series in zip(rows, paper.table1(), strict=True)}
    layers = range(1, max(results.num_layers, 9) + 1)
    lines: list[Row] = []
    for row, part in shown_parts(rows, results):
        own = published[row.label]
        theirs = own if own.part == part else None
        lines += _series(written, row, part, results, layers, theirs)
    note = (
        "Percent, mean over seeds and standard deviation below it. Pairs of two empty masks are "
        "left out of mIoU-L. * Queries of the MP part, matched again; assigned to their own "
        "objects, they would have 100% by construction. Paper: as published; "
        f"{UNAVAILABLE} is not legible in our copy."
    )
    head = ("", "Layer", *map(str, layers))
    written.tables.append(Table("mIoU-L and Util by layer", head, tuple(lines), note, labels=2))
    written.tables.append(_nearness(written, rows, results, layers))
    return written


def shown_parts(
    rows: Sequence[TableRow], results: TrainingResults
) -> Iterator[tuple[TableRow, str]]:
    """Each row with each part of its queries that there is a run of."""
    for row in rows:
        for part in (MATCHING, PILOTED):
            if results.first(row.training, part) is not None:
                yield row, part


def _nearness(
    written: TableBuilder, rows: Sequence[TableRow], results: TrainingResults, layers: range
) -> Table:
    """How well the masks that match fit, so that a change can be told from a loss."""
    lines = []
    for row, part in shown_parts(rows, results):
        cells = []
        for layer in layers:
            measure = SummaryMetric("matched_iou", "IoU", layer)
            values = results.values(row.training, measure, part)
            cells.append(written.cell(row, measure, values, part).partition(" ± ")[0])
        lines.append(Row((f"{row.label} ({part_name(part)})", *cells)))
    note = (
        "Percent, mean over seeds; the paper does not print it. Where it rises, masks change "
        "because they become better: mIoU-L is low there without harm."
    )
    title = "IoU of each layer's matched masks with their objects"
    return Table(title, ("Layer", *map(str, layers)), tuple(lines), note)


def _series(
    written: TableBuilder,
    row: TableRow,
    part: str,
    results: TrainingResults,
    layers: range,
    theirs: "paper.PaperRow | None",
) -> Iterator[Row]:
    star = "*" if part == PILOTED else ""
    name = f"{row.label} ({part_name(part)})"
    for key, label in (("miou_l", "mIoU-L"), ("util", f"Util{star}")):
        cells, deviations = [], []
        for layer in layers:
            values = results.values(row.training, SummaryMetric(key, label, layer), part)
            text = written.cell(row, SummaryMetric(key, label, layer), values, part)
            mean, _, deviation = text.partition(" ± ")
            cells.append(mean)
            deviations.append(f"±{deviation}" if deviation else "")
        yield Row((name if key == "miou_l" else "", label, *cells), first=key == "miou_l")
        if any(deviations):
            yield Row(("", "", *deviations), quiet=True)
        if theirs is None:
            continue
        published = {"miou_l": theirs.miou_l, "util": theirs.util}[key]
        for layer, value in enumerate(published, 1):
            written.published(row, SummaryMetric(key, label, layer), value, part)
        texts = [UNAVAILABLE if value is None else f"{100 * value:.1f}" for value in published]
        texts += [""] * (len(layers) - len(texts))
        yield Row(("", "paper", *texts), quiet=True)


def ablation(
    target: str, title: str, rows: Sequence[TableRow], results: TrainingResults, base: str
) -> TableBuilder:
    """AP and its difference to the row `base`, beside the paper's; mean Util and mIoU-L."""
    written = TableBuilder(target)
    of_base = [row for row in rows if row.training == base]
    reference = of_base[0]
    grouped = bool(reference.group)
    lines: list[Row] = []
    told: set[str] = set()
    for row in rows:
        cells = [
            written.cell(row, measure, results.values(row.training, measure))
            for measure in ABLATION
        ]
        begins = grouped and row.group not in told
        told.add(row.group)
        difference = _difference(reference, row, results)
        theirs, base_ap = (_published_ap(one) for one in (row, reference))
        written.published(row, AP, theirs)
        change = ""
        if theirs is not None and base_ap is not None and row.training != base:
            change = format_difference(theirs - base_ap)
        lines.append(
            Row(
                (
                    *([row.group if begins else ""] if grouped else []),
                    row.label,
                    cells[0],
                    difference,
                    NO_VALUE if theirs is None else f"{100 * theirs:.1f}",
                    change,
                    *cells[1:],
                ),
                first=begins,
            )
        )
    further = (measure.label for measure in ABLATION[1:])
    labels = 2 if grouped else 1
    head = (*[""] * labels, "AP", "Difference", "AP, paper", "Difference, paper", *further)
    names = " and ".join(repr(row.label) for row in of_base)
    to = f"rows {names}, which are one training" if len(of_base) > 1 else f"row {names}"
    note = (
        f"{DEVIATION} Differences are to the {to}, in percentage points, with 95% intervals of the "
        f"pairs of a seed. {MEANS}"
    )
    written.tables.append(Table(title, head, tuple(lines), note, labels))
    return written


def _difference(reference: TableRow, row: TableRow, results: TrainingResults) -> str:
    if row.training == reference.training:
        return ""
    found = paired_difference(
        results.values(reference.training, AP), results.values(row.training, AP)
    )
    return NO_VALUE if found is None else format_difference(found.mean, found.half)


def _published_ap(row: TableRow) -> float | None:
    if row.paper is None:
        return None
    value = next(iter(paper.published(row.paper).values()))
    return None if value is None else value / 100


def table7(
    rows: Sequence[TableRow], results: TrainingResults, costs: Mapping[str, Any]
) -> TableBuilder:
    """The naive solutions: AP by size, parameters, multiply-adds and images a second."""
    written = TableBuilder("table7")
    lines = []
    for row in rows:
        cells = [written.cell(row, x, results.values(row.training, x)) for x in SIZES]
        cost = costs.get(row.training)
        lines.append(Row((row.label, *cells, *_costs(written, row, cost)), first=True))
        assert row.paper is not None
        theirs: dict[str, Any] = paper.published(row.paper)
        for measure in SIZES:
            value = theirs[measure.label]
            written.published(row, measure, None if value is None else value / 100)
        lines.append(
            Row(
                (
                    "paper",
                    *(f"{theirs[measure.label]:.1f}" for measure in SIZES),
                    *(str(theirs[key]) for key in ("params", "flops", "fps")),
                ),
                quiet=True,
            )
        )
    known = next(iter(costs.values()), None)
    at = "" if known is None else (
        f" Multiply-adds (which the paper calls FLOPs) and images a second are of one image of "
        f"{known['height']} x {known['width']} pixels, on {known['device']}."
    )  # fmt: skip
    head = ("", *(measure.label for measure in SIZES), "Parameters", "FLOPs", "fps")
    title = "Naive solutions for inconsistent masks"
    written.tables.append(Table(title, head, tuple(lines), f"{DEVIATION} {BY_SIZE}{at}"))
    further = [
        Row(
            (
                row.label,
                *(
                    written.cell(row, measure, results.values(row.training, measure))
                    for measure in AIMS
                ),
            )
        )
        for row in rows
    ]
    head = ("", *(measure.label for measure in AIMS))
    title = "What each was made to raise, and at what price, which the paper does not print"
    note = (
        f"{DEVIATION} {MEANS} Empty pairs: of all pairs of adjacent layers, those with two empty "
        "masks. Duplicates: of an image's most confident queries, as many as it has objects, those "
        "whose object a more confident one has too."
    )
    written.tables.append(Table(title, head, tuple(further), note))
    return written


def _costs(written: TableBuilder, row: TableRow, cost: Mapping[str, Any] | None) -> tuple[str, ...]:
    if cost is None:
        return (NO_VALUE,) * 3
    for key in ("parameters", "multiply_adds", "frames_per_second"):
        written.values.append(Value("table7", "ours", row.label, "", key, None, "", cost[key]))
    return (
        short_count(cost["parameters"]),
        short_count(cost["multiply_adds"]),
        f"{cost['frames_per_second']:.1f}",
    )


def short_count(number: float) -> str:
    """A count in thousands, millions or billions."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def table3(rows: Sequence[TableRow], results: TrainingResults) -> TableBuilder:
    """Shorter trainings: AP by size, and hours of clock time of the steps."""
    written = TableBuilder("table3")
    hours = SummaryMetric("hours", "Clock time/h")
    lines = []
    for row in rows:
        cells = [written.cell(row, x, results.values(row.training, x)) for x in SIZES]
        took = results.hours(row.training)
        written.cell(row, hours, took)
        found = seed_statistics(took.values())
        text = NO_VALUE if found is None else _hours(found)
        lines.append(Row((row.label, *cells, text), first=True))
        for reference in filter(None, (row.paper, row.beside)):
            theirs = paper.published(reference)
            texts = [NO_VALUE if value is None else f"{value:.1f}" for value in theirs.values()]
            label = f"paper: {reference.row['data']}, {reference.row['method']}"
            lines.append(Row((label, *texts), quiet=True))
            source = replace(row, label=f"{row.label} ({reference.row['data']})")
            for measure in SIZES:
                value = theirs[measure.label]
                written.published(source, measure, None if value is None else value / 100)
            written.published(source, hours, theirs["hours_ins"])
    head = ("", *(measure.label for measure in SIZES), "Clock time/h")
    note = (
        f"{DEVIATION} {BY_SIZE} Clock time is that of the steps, on the machine below, in whatever "
        "else it did; evaluations are left out. The paper's rows are of 36 of 50 epochs on COCO "
        "(72%) and of 80k of 160k steps on ADE20K (half), instance segmentation, R50."
    )
    written.tables.append(Table("Shorter trainings", head, tuple(lines), note))
    return written


def _hours(found: SeedStatistics) -> str:
    digits = 1 if found.mean >= 10 else 3
    deviation = "" if found.deviation is None else f" ± {found.deviation:.{digits}f}"
    return f"{found.mean:.{digits}f}{deviation}"
