"""The findings page of one run: main results, the most different masks, and tables."""

from collections.abc import Iterator

import pandas as pd

from mpdiag.errors import RunError
from mpdiag.store import LAYER_METRICS, Run
from mpdiag.store.diagnosis import SCORES
from mpdiag.store.layers import group_values
from mpdiag.store.transitions import TRANSITIONS
from reports.document import Document, Highlight, Section, Table
from reports.formatting import NO_VALUE, format_percent, format_percents, part_name
from reports.layer_tables import (
    PAPER_METRICS,
    layer_table,
    layer_tables,
    metric_definitions,
)
from reports.mask_pairs import draw_pairs, lowest_iou_pairs
from reports.run_facts import run_facts

NUM_PAIRS = 10
NUM_CLASSES = 5

_PAIRS_TEXT = (
    "Each picture shows the mask of one query in two adjacent layers in red, as in the paper's "
    "Figure 1. Only queries that match an object in the last layer are considered, and pairs with "
    "an empty mask are left out."
)


def build_findings(run: Run) -> Document:
    """Return the findings page of a run."""
    util = util_by_class(run)
    sections = [Section("Findings", highlights=tuple(find_highlights(run, util)))]
    pictures = draw_pairs(run, lowest_iou_pairs(run, NUM_PAIRS), "pair")
    if pictures:
        sections.append(
            Section("Masks that change most between layers", (_PAIRS_TEXT,), pictures=pictures)
        )
    tables = (_intervals(run), _util_table(run, util), *layer_tables(run))
    sections += [
        Section("Tables", tables=tuple(table for table in tables if table.rows)),
        Section("Metrics", tables=(metric_definitions(),)),
        Section("Settings and environment", facts=tuple(run_facts(run))),
    ]
    part = part_name(str(run.header.get("part", "unknown")))
    return Document("findings", f"{run.name} ({part}): findings", tuple(sections))


def find_highlights(run: Run, util: pd.DataFrame) -> Iterator[Highlight]:
    """Yield the main results of a run; `util` is that of `util_by_class`."""
    layers = run.summary["layers"]
    # Util of the last layer is 100% by definition.
    for name, considered in (("miou_l", layers), ("util", layers[:-1])):
        known = [layer for layer in considered if layer[name] is not None]
        if known:
            worst = min(known, key=lambda layer: layer[name])
            number = worst["layer"]
            where = f"layers {number - 1} and {number}" if name == "miou_l" else f"layer {number}"
            yield Highlight(f"Lowest {LAYER_METRICS[name].label}", where, _percent(worst[name]))
    usage = run.summary.get("query_use")
    if usage and run.header.get("part") == "matching":
        unmatched = f"{usage['dead']} of {len(usage['matches'])}"
        yield Highlight("Unmatched queries", "queries that match no object in any image", unmatched)
    if run.has_column("queries", "second_coverage"):
        yield from _most_common_transition(run)
    if len(util) and len(layers) > 1:  # else there is no layer before the last
        lowest = _mean_before_last(util)[:NUM_CLASSES]
        values = ", ".join(f"{name} {_percent(value)}" for name, value in lowest.items())
        text = "mean Util of the layers before the last, lowest classes first"
        yield Highlight("Lowest Util by class", text, values)
    with_empty = [layer for layer in layers if layer.get("empty_pairs")]
    if with_empty:
        empty = max(with_empty, key=lambda layer: layer["empty_pairs"])
        text = f"pairs of masks that are both empty, in layer {empty['layer']}, which has most"
        yield Highlight("Empty pairs", text, _percent(empty["empty_pairs"]))
    for key, label in SCORES.items():
        value = (run.summary.get(key) or {}).get(key)
        if value is not None:
            yield Highlight(label, "last layer", _percent(value))


def _most_common_transition(run: Run) -> Iterator[Highlight]:
    table = run.transitions()
    table = table[table["transition"] != "kept"]
    totals = table.groupby("transition", sort=False)["count"].sum()
    if not len(totals) or not totals.max():
        return
    name = str(totals.idxmax())
    of_class = table[table["transition"] == name].to_dict("records")
    highest = max(of_class, key=lambda row: row["share"])
    text = (
        f"{name} ({TRANSITIONS[name]}), except for kept; share of the transitions into layer "
        f"{highest['layer']}, its highest share"
    )
    yield Highlight("Most common transition", text, _percent(highest["share"]))


def util_by_class(run: Run) -> pd.DataFrame:
    """Return the Util of each class with GT, by name, in layers 0..L, the columns.

    The class with the lowest mean of the layers before the last comes first. The table is empty if
    run.json lists no classes.
    """
    try:
        table = group_values(run.image_sums("class"))
    except RunError:  # no classes
        return pd.DataFrame()
    util = table.pivot(index="group", columns="layer", values="util")
    return util.loc[_mean_before_last(util).dropna().sort_values(kind="stable").index]


def _mean_before_last(util: pd.DataFrame) -> pd.Series:
    """Return the mean of layers 1..L-1 of each class, or layer 1 if it is the only one."""
    return util.loc[:, 1 : max(util.shape[1] - 2, 1)].mean(axis=1)


def _intervals(run: Run) -> Table:
    layers = run.layers()
    rows = []
    for name in () if layers.empty else PAPER_METRICS:  # empty without queries
        for suffix, label in (("", ""), ("_low", ", lower end"), ("_high", ", upper end")):
            cells = format_percents(layers[name + suffix], missing="")
            rows.append((LAYER_METRICS[name].label + label, cells))
    note = (
        "Percent, with the ends of the 95% confidence interval over resampled images. Pairs of two "
        "empty masks are left out of mIoU-L."
    )
    return layer_table(run, "The paper's metrics", note, rows)


def _util_table(run: Run, util: pd.DataFrame) -> Table:
    cells = map(format_percents, util.to_numpy())
    rows = list(zip(util.index, cells, strict=True))
    return layer_table(run, "Util by class", "Percent of the objects of the class.", rows)


def _percent(value: float | None) -> str:
    text = format_percent(value)
    return text if text == NO_VALUE else f"{text}%"
