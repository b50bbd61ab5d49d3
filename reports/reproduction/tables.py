"""The paper's tables with measured and published results: mean and deviation over seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mpdiag.store import LAYER_METRICS
from reports import paper
from reports.document import Row, Table
from reports.formatting import (
    NO_VALUE,
    UNAVAILABLE,
    format_difference,
    format_percent,
    format_percents,
    part_name,
)
from reports.reproduction.mask_changes import mask_changes
from reports.reproduction.results import MATCHING, PILOTED, SummaryMetric, TrainingResults
from reports.reproduction.seed_statistics import (
    BySeed,
    SeedStatistics,
    paired_difference,
    seed_statistics,
)
from reports.reproduction.table_rows import TableRow


def _mean_over_layers(name: str) -> SummaryMetric:
    return SummaryMetric(name, f"{LAYER_METRICS[name].label}, mean")


AP = SummaryMetric("ap", "AP")
AP_BY_SIZE = (
    AP,
    SummaryMetric("ap_small", "AP_S"),
    SummaryMetric("ap_medium", "AP_M"),
    SummaryMetric("ap_large", "AP_L"),
)
UTIL, MIOU = _mean_over_layers("util"), _mean_over_layers("miou_l")
ABLATION_METRICS = (AP, SummaryMetric("ap50", "AP50"), UTIL, MIOU)
SIDE_EFFECTS = (UTIL, MIOU, _mean_over_layers("empty_pairs"), _mean_over_layers("duplicates"))

DEVIATION_NOTE = "Percent; ± is the standard deviation over seeds."
SIZE_NOTE = (
    "Object sizes are those of COCO: below 32 x 32 pixels, below 96 x 96, and larger. n/a: there "
    "is no such object or no such run."
)
MEAN_NOTE = (
    "Means are over layers 1..L of the matching part. The mean of Util leaves out layer L, where "
    "it is 100% by definition."
)


class ReportedValue(NamedTuple):
    """A row of report.csv; `value` is a fraction for shares, and None if unknown."""

    section: str
    source: str
    row: str
    part: str
    metric: str
    layer: int | None
    seed: str
    value: float | None


@dataclass(slots=True)
class SectionTables:
    """Tables of a section, and the values behind their cells."""

    target: str
    tables: list[Table] = field(default_factory=list)
    values: list[ReportedValue] = field(default_factory=list)

    def cell(
        self, row: TableRow, metric: SummaryMetric, values: BySeed, part: str = MATCHING
    ) -> str:
        """Return mean ± deviation in percent, and record the values behind it."""
        statistics = seed_statistics(values.values())
        for seed, value in sorted(values.items()):
            self._record("ours", row, metric, value, part, str(seed))
        if statistics is None:
            return NO_VALUE
        self._record("ours", row, metric, statistics.mean, part, "mean")
        self._record("ours", row, metric, statistics.deviation, part, "deviation")
        if statistics.deviation is None:
            return format_percent(statistics.mean)
        return f"{format_percent(statistics.mean)} ± {format_percent(statistics.deviation)}"

    def record_published(
        self, row: TableRow, metric: SummaryMetric, value: float | None, part: str = MATCHING
    ) -> None:
        """Record a value of the paper."""
        self._record("paper", row, metric, value, part, "")

    def _record(
        self,
        source: str,
        row: TableRow,
        metric: SummaryMetric,
        value: float | None,
        part: str,
        seed: str,
    ) -> None:
        self.values.append(
            ReportedValue(
                self.target, source, row.label, part, metric.key, metric.layer, seed, value
            )
        )


def table1(rows: Sequence[TableRow], results: TrainingResults) -> SectionTables:
    """Return mIoU-L and Util of every layer for each part of each training."""
    section = SectionTables("table1")
    published = {row.label: series for row, series in zip(rows, paper.table1(), strict=True)}
    layers = range(1, max(results.num_layers, 9) + 1)
    lines: list[Row] = []
    for row, part in trained_parts(rows, results):
        of_paper = published[row.label]
        lines += _layer_rows(
            section, row, part, results, layers, of_paper if of_paper.part == part else None
        )
    note = (
        "Percent, mean over seeds, with the standard deviation below. Pairs of two empty masks are "
        "left out of mIoU-L. * Queries of the MP part, matched again; with their own objects as "
        f"matches they would have 100% by construction. Paper: as published; {UNAVAILABLE}: not "
        "available."
    )
    columns = ("", "Layer", *map(str, layers))
    title = "mIoU-L and Util by layer"
    section.tables.append(Table(title, columns, tuple(lines), note, label_columns=2))
    section.tables.append(_matched_iou(section, rows, results, layers))
    changes = mask_changes(rows, results, layers)
    section.tables += [] if changes is None else [changes]
    return section


def trained_parts(
    rows: Sequence[TableRow], results: TrainingResults
) -> Iterator[tuple[TableRow, str]]:
    """Yield each row with each part of its queries that has a run."""
    for row in rows:
        for part in (MATCHING, PILOTED):
            if results.first_run(row.training, part) is not None:
                yield row, part


def _matched_iou(
    section: SectionTables, rows: Sequence[TableRow], results: TrainingResults, layers: range
) -> Table:
    """Return the IoU of matched masks, which shows whether changing masks improve."""
    lines = []
    for row, part in trained_parts(rows, results):
        cells = []
        for layer in layers:
            metric = SummaryMetric("matched_iou", "IoU", layer)
            values = results.values(row.training, metric, part)
            cells.append(section.cell(row, metric, values, part).partition(" ± ")[0])
        lines.append(Row((f"{row.label} ({part_name(part)})", *cells)))
    note = (
        "Percent, mean over seeds; not in the paper. Where it rises, masks change because they "
        "improve, and a low mIoU-L is no defect."
    )
    title = "IoU of each layer's matched masks with their objects"
    return Table(title, ("Layer", *map(str, layers)), tuple(lines), note)


def _layer_rows(
    section: SectionTables,
    row: TableRow,
    part: str,
    results: TrainingResults,
    layers: range,
    of_paper: "paper.PaperRow | None",
) -> Iterator[Row]:
    star = "*" if part == PILOTED else ""
    name = f"{row.label} ({part_name(part)})"
    for key, label in (("miou_l", "mIoU-L"), ("util", f"Util{star}")):
        cells, deviations = [], []
        for layer in layers:
            metric = SummaryMetric(key, label, layer)
            values = results.values(row.training, metric, part)
            mean, _, deviation = section.cell(row, metric, values, part).partition(" ± ")
            cells.append(mean)
            deviations.append(f"±{deviation}" if deviation else "")
        starts_group = key == "miou_l"
        yield Row((name if starts_group else "", label, *cells), starts_group=starts_group)
        if any(deviations):
            yield Row(("", "", *deviations), muted=True)
        if of_paper is None:
            continue
        published = {"miou_l": of_paper.miou_l, "util": of_paper.util}[key]
        for layer, value in enumerate(published, 1):
            section.record_published(row, SummaryMetric(key, label, layer), value, part)
        yield Row(("", "paper", *format_percents(published, len(layers), UNAVAILABLE)), muted=True)


def ablation(
    target: str, title: str, rows: Sequence[TableRow], results: TrainingResults, reference: str
) -> SectionTables:
    """Return AP and its difference to a reference training, and mean Util and mIoU-L."""
    section = SectionTables(target)
    reference_rows = [row for row in rows if row.training == reference]
    grouped = bool(rows[0].group)
    lines: list[Row] = []
    groups: set[str] = set()
    for row in rows:
        starts_group = grouped and row.group not in groups
        groups.add(row.group)
        group = [row.group if starts_group else ""] if grouped else []
        cells = _ablation_cells(section, row, reference_rows[0], results)
        lines.append(Row((*group, row.label, *cells), starts_group=starts_group))
    label_columns = 2 if grouped else 1
    others = (metric.label for metric in ABLATION_METRICS[1:])
    columns = ("AP", "Difference", "AP, paper", "Difference, paper", *others)
    names = " and ".join(repr(row.label) for row in reference_rows)
    to = f"row {names}"
    if len(reference_rows) > 1:
        to = f"rows {names}, which are one training"
    note = (
        f"{DEVIATION_NOTE} Differences are to the {to}, in percentage points, with 95% confidence "
        f"intervals of the differences of each seed. {MEAN_NOTE}"
    )
    columns = (*[""] * label_columns, *columns)
    section.tables.append(Table(title, columns, tuple(lines), note, label_columns))
    return section


def _ablation_cells(
    section: SectionTables, row: TableRow, reference: TableRow, results: TrainingResults
) -> list[str]:
    cells = [
        section.cell(row, metric, results.values(row.training, metric))
        for metric in ABLATION_METRICS
    ]
    published, published_reference = map(paper.published_ap, (row.paper, reference.paper))
    section.record_published(row, AP, published)
    difference = published_difference = ""
    if row.training != reference.training:
        paired = paired_difference(
            results.values(reference.training, AP), results.values(row.training, AP)
        )
        difference = (
            NO_VALUE if paired is None else format_difference(paired.mean, paired.half_width)
        )
        if published is not None and published_reference is not None:
            published_difference = format_difference(published - published_reference)
    return [cells[0], difference, format_percent(published), published_difference, *cells[1:]]


def table7(
    rows: Sequence[TableRow], results: TrainingResults, costs: Mapping[str, Any]
) -> SectionTables:
    """Return AP by object size, parameters, multiply-adds and images per second."""
    section = SectionTables("table7")
    lines = []
    for row in rows:
        cells = [section.cell(row, x, results.values(row.training, x)) for x in AP_BY_SIZE]
        cost_cells = _cost_cells(section, row, costs.get(row.training))
        lines.append(Row((row.label, *cells, *cost_cells), starts_group=True))
        assert row.paper is not None
        published = paper.published_results(row.paper)
        _record_sizes(section, row, published)
        sizes = (f"{published[metric.label]:.1f}" for metric in AP_BY_SIZE)
        cost_texts = (str(published[key]) for key in ("params", "flops", "fps"))
        lines.append(Row(("paper", *sizes, *cost_texts), muted=True))
    known = next(iter(costs.values()), None)
    measured = "" if known is None else (
        " Multiply-adds (FLOPs in the paper) and images per second are for one image of "
        f"{known['height']} x {known['width']} pixels on {known['device']}."
    )  # fmt: skip
    columns = ("", *(metric.label for metric in AP_BY_SIZE), "Parameters", "FLOPs", "fps")
    title = "Naive solutions for inconsistent masks"
    section.tables.append(
        Table(title, columns, tuple(lines), f"{DEVIATION_NOTE} {SIZE_NOTE}{measured}")
    )
    section.tables.append(_side_effects(section, rows, results))
    return section


def _side_effects(
    section: SectionTables, rows: Sequence[TableRow], results: TrainingResults
) -> Table:
    lines = []
    for row in rows:
        cells = (section.cell(row, x, results.values(row.training, x)) for x in SIDE_EFFECTS)
        lines.append(Row((row.label, *cells)))
    note = (
        f"{DEVIATION_NOTE} {MEAN_NOTE} Empty pairs: share of pairs of adjacent layers in which "
        "both masks are empty. Duplicates: share of an image's most confident queries, as many as "
        "it has objects, whose object a more confident query also has."
    )
    columns = ("", *(metric.label for metric in SIDE_EFFECTS))
    return Table("Intended effects and side effects; not in the paper", columns, tuple(lines), note)


def _record_sizes(
    section: SectionTables, row: TableRow, published: Mapping[str, float | None]
) -> None:
    for metric in AP_BY_SIZE:
        value = published[metric.label]
        section.record_published(row, metric, None if value is None else value / 100)


def _cost_cells(
    section: SectionTables, row: TableRow, cost: Mapping[str, Any] | None
) -> tuple[str, ...]:
    if cost is None:
        return (NO_VALUE,) * 3
    for key in ("parameters", "multiply_adds", "frames_per_second"):
        section.values.append(
            ReportedValue("table7", "ours", row.label, "", key, None, "", cost[key])
        )
    return (
        format_count(cost["parameters"]),
        format_count(cost["multiply_adds"]),
        f"{cost['frames_per_second']:.1f}",
    )


def format_count(number: float) -> str:
    """Return a count with three digits, in thousands (k), millions (M) or billions (G)."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def table3(rows: Sequence[TableRow], results: TrainingResults) -> SectionTables:
    """Return AP by object size and training time of shorter trainings."""
    section = SectionTables("table3")
    hours = SummaryMetric("hours", "Training time in h")
    lines = []
    for row in rows:
        cells = [section.cell(row, x, results.values(row.training, x)) for x in AP_BY_SIZE]
        hours_by_seed = results.hours(row.training)
        section.cell(row, hours, hours_by_seed)
        statistics = seed_statistics(hours_by_seed.values())
        text = NO_VALUE if statistics is None else _format_hours(statistics)
        lines.append(Row((row.label, *cells, text), starts_group=True))
        for reference in filter(None, (row.paper, row.also_paper)):
            published = paper.published_results(reference)
            texts = [NO_VALUE if value is None else f"{value:.1f}" for value in published.values()]
            label = f"paper: {reference.row['data']}, {reference.row['method']}"
            lines.append(Row((label, *texts), muted=True))
            source = replace(row, label=f"{row.label} ({reference.row['data']})")
            _record_sizes(section, source, published)
            section.record_published(source, hours, published["hours_ins"])
    columns = ("", *(metric.label for metric in AP_BY_SIZE), hours.label)
    note = (
        f"{DEVIATION_NOTE} {SIZE_NOTE} Training time is the time of the steps, without "
        "evaluations, on the machine below. Other processes may have shared it. The paper's rows "
        "are instance segmentation with R50, with 36 of 50 epochs on COCO (72%) and 80k of 160k "
        "steps on ADE20K (half)."
    )
    section.tables.append(Table("Shorter trainings", columns, tuple(lines), note))
    return section


def _format_hours(statistics: SeedStatistics) -> str:
    digits = 1 if statistics.mean >= 10 else 3
    deviation = "" if statistics.deviation is None else f" ± {statistics.deviation:.{digits}f}"
    return f"{statistics.mean:.{digits}f}{deviation}"
