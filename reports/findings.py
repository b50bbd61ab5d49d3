"""The report of one run: what a reader should know first, then pictures, then the tables."""

import math
from collections.abc import Iterator

import pandas as pd

from mpdiag.store import Run
from mpdiag.store.transitions import TRANSITIONS
from reports.document import Document, Highlight, Row, Section, Table
from reports.formatting import NO_VALUE, format_percents
from reports.layer_tables import LayerTable
from reports.mask_pairs import draw_pairs, lowest_iou_pairs
from reports.run_facts import describe

PAIRS = 10
CLASSES = 5

_METRICS = {"miou_l": "mIoU-L", "util": "Util"}


def build_findings(run: Run) -> Document:
    """What a run found, for who never opens the dashboard."""
    facts = describe(run, run.name)
    by_class = run.layers(by="class", resamples=1)
    pictures = draw_pairs(run, lowest_iou_pairs(run, PAIRS), "pair")
    conventions = LayerTable("All conventions for empty pairs", "Percent.", facts.conventions)
    parts = [_metrics(run), _classes(by_class), conventions, *facts.tables]
    tables = [_table(part, facts.layers) for part in parts if part.rows]
    sections = [Section("Findings", highlights=tuple(_findings(run, by_class)))]
    if pictures:
        sections.append(
            Section(
                "The pairs that differ most",
                text=(
                    "The same query in two adjacent layers, its mask in red, as in the paper's "
                    "Figure 1. Of the queries that match an object in the last layer; pairs with "
                    "an empty mask are left out.",
                ),
                pictures=pictures,
            )
        )
    sections.append(Section("Tables", tables=tuple(tables)))
    title = f"{run.name}: what its layers do ({facts.part})"
    return Document("findings", title, facts.facts, tuple(sections))


def _findings(run: Run, by_class: pd.DataFrame) -> Iterator[Highlight]:
    layers = run.summary["layers"]
    for metric, label in _METRICS.items():
        known = [layer for layer in layers if layer[metric] is not None]
        if metric == "util":
            known = known[:-1]  # that of the last layer is 100% by definition
        if not known:
            continue
        worst = min(known, key=lambda layer: layer[metric])
        what = {
            "miou_l": "masks change most between layers {before} and {layer}, mIoU-L there",
            "util": "the matches that the last layer keeps are fewest in layer {layer}, Util there",
        }[metric].format(before=worst["layer"] - 1, layer=worst["layer"])
        yield Highlight(what, f"Worst layer by {label}", _percent(worst[metric]))
    use = run.summary.get("query_use")
    if isinstance(use, dict) and run.header.get("part") == "matching":
        text = f"of {len(use['matches'])} queries match no object in any image"
        yield Highlight(text, "Dead queries", str(use["dead"]))
    if run.header["schema_version"] >= 2:
        yield from _commonest(run)
    if not by_class.empty:
        lowest = _util_by_class(by_class)[:CLASSES]
        said = ", ".join(f"{name} {_percent(value)}" for name, value in lowest)
        text = "Util, mean of the layers before the last, of the classes where it is lowest"
        yield Highlight(text, "Lowest Util", said)
    empty = max(layers, key=lambda layer: layer["empty_pairs"], default=None)
    if empty is not None and empty["empty_pairs"] > 0:
        text = f"of the pairs of masks are both empty in layer {empty['layer']}, where most are"
        yield Highlight(text, "Empty masks", _percent(empty["empty_pairs"]))
    for key, label in (("ap", "AP"), ("pq", "PQ"), ("miou", "mIoU")):
        value = (run.summary.get(key) or {}).get(key)
        if value is not None:
            yield Highlight(f"{label} of the last layer", label, _percent(value))


def _commonest(run: Run) -> Iterator[Highlight]:
    moves = run.transitions()
    moves = moves[moves["transition"] != "kept"]
    total = moves.groupby("transition", sort=False)["count"].sum()
    if not len(total) or not total.max():
        return
    kind = str(total.idxmax())
    own = moves[moves["transition"] == kind]
    worst = max(own.to_dict("records"), key=lambda row: row["share"])
    text = (
        f"{kind} ({TRANSITIONS[kind]}), among masks that do not stay the same; share of the "
        f"transitions into layer {worst['layer']}, where it is highest"
    )
    yield Highlight(text, "Commonest transition", _percent(worst["share"]))


def _util_by_class(by_class: pd.DataFrame) -> list[tuple[str, float]]:
    """Name and mean Util of layers 1..L-1 of each class, lowest first."""
    if by_class.empty:
        return []
    last = by_class["layer"].max()
    inner = by_class[(by_class["layer"] >= 1) & (by_class["layer"] < max(last, 2))]
    means = inner.groupby("group", sort=False)["util"].mean().dropna()
    return sorted(zip(means.index, means, strict=True), key=lambda pair: (pair[1], pair[0]))


def _metrics(run: Run) -> LayerTable:
    layers = run.layers()
    rows = []
    for metric, label in _METRICS.items():
        low, high = (
            format_percents(layers[f"{metric}_{end}"].tolist(), 0, "") for end in ("low", "high")
        )
        rows.append((label, tuple(format_percents(layers[metric].tolist(), 0, ""))))
        rows.append((f"{label}, from", tuple(low)))
        rows.append((f"{label}, to", tuple(high)))
    note = (
        "Percent, with the ends of 95% intervals over resampled images. Pairs of two empty masks "
        "are left out of mIoU-L."
    )
    return LayerTable("The paper's metrics", note, tuple(rows))


def _classes(by_class: pd.DataFrame) -> LayerTable:
    rows = []
    for name, _ in _util_by_class(by_class):
        own = by_class[by_class["group"] == name].sort_values("layer")["util"]
        rows.append((name, tuple(format_percents(own.tolist(), 0, NO_VALUE))))
    return LayerTable(
        "Util by class", "Percent, over the objects of the class; the lowest first.", tuple(rows)
    )


def _table(part: LayerTable, layers: tuple[int, ...]) -> Table:
    head = ("Layer", *map(str, layers))
    rows = tuple(Row((label, *cells)) for label, cells in part.rows)
    return Table(part.title, head, rows, part.note)


def _percent(value: float | None) -> str:
    return NO_VALUE if value is None or math.isnan(value) else f"{100 * value:.1f}%"
