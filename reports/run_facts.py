"""What a reader must know of a run beside its numbers."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Any

from mpdiag.store import Run
from reports.formatting import NO_VALUE, format_percents, part_name
from reports.layer_tables import LayerTable, layer_tables

CONVENTIONS = (
    ("miou_l", "mIoU-L, empty pairs left out"),
    ("miou_l_empty0", "mIoU-L, empty pairs count 0"),
    ("miou_l_empty1", "mIoU-L, empty pairs count 1"),
    ("miou_l_matched", "mIoU-L, queries matched in the last layer"),
    ("empty_pairs", "Share of empty pairs"),
    ("util", "Util"),
)
"""Key in summary.json and label of each value of a layer."""


AP = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP_S",
    "ap_medium": "AP_M",
    "ap_large": "AP_L",
}
PQ = {
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "pq_things": "PQ^Th",
    "pq_stuff": "PQ^St",
}
ORACLE = {"matched_iou": "IoU of matched masks", "best_iou": "of any mask"}
MIOU = {"miou": "mIoU", "miou_in_gt": "mIoU of classes in the GT"}


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run as its section of the report shows it: texts only."""

    name: str
    part: str
    facts: tuple[tuple[str, str], ...]
    layers: tuple[int, ...]
    conventions: tuple[tuple[str, tuple[str, ...]], ...]
    tables: tuple[LayerTable, ...]


def describe(run: Run, name: str) -> RunFacts:
    """Facts of the run, and all conventions for layers 0..L (only Util is defined for 0)."""
    layers = range(run.num_layers + 1)
    rows = []
    for key, label in CONVENTIONS:
        values = [layer[key] for layer in run.summary["layers"]]
        first = (
            format_percents([run.summary.get("util_m0")], 1, NO_VALUE) if key == "util" else [""]
        )
        rows.append((label, (*first, *format_percents(values, run.num_layers, NO_VALUE))))
    part = part_name(str(run.header.get("part", "unknown")))
    facts = tuple(run_facts(run))
    return RunFacts(name, part, facts, tuple(layers), tuple(rows), layer_tables(run))


def run_facts(run: Run) -> list[tuple[str, str]]:
    """What was analysed and how, and what it comes to: label and text of each fact."""
    header, summary = run.header, run.summary
    checkpoint, dataset = _dict(header.get("checkpoint")), _dict(header.get("dataset"))
    sha = str(checkpoint.get("sha256") or "")
    dataset_name = " ".join(str(dataset[key]) for key in ("name", "split") if dataset.get(key))
    annotations = PurePath(str(dataset.get("annotation_file") or "")).name
    facts = [
        ("Checkpoint", f"{checkpoint.get('path')}" + (f" (sha256 {sha[:12]}…)" if sha else "")),
        ("Method", str(header.get("method") or "")),
        ("Architecture", _architecture(_dict(header.get("architecture")))),
        ("Data set", dataset_name + (f" ({annotations})" if annotations else "")),
        ("Task", str(header.get("task") or "")),
        ("Images", f"{summary['num_images']:,} with {summary['num_gt']:,} objects"),
        ("AP of the last layer", _averages(AP, _dict(summary.get("ap")))),
        ("PQ of the last layer", _averages(PQ, _dict(summary.get("pq")))),
        ("mIoU of the last layer", _averages(MIOU, _dict(summary.get("miou")))),
        ("AP gained without", _gains(_dict(summary.get("ap_gains")))),
        ("Best layer of each object", _averages(ORACLE, _dict(summary.get("oracle")))),
        ("Queries", f"{summary['num_queries']:,} in {summary['num_layers']} layers"),
        ("Never matched", _use(header, _dict(summary.get("query_use")))),
        ("Not finite", _not_finite(summary)),
        ("Settings", _pairs(header.get("settings"))),
        ("Analysed", _analysed(header)),
        ("Versions", _pairs(header.get("versions"))),
    ]
    return [(label, value) for label, value in facts if value]


def _averages(words: dict[str, str], averages: dict[str, Any]) -> str:
    """Averages of summary.json in percent, by the words of the field."""
    return ", ".join(
        f"{word} {100 * averages[key]:.1f}"
        for key, word in words.items()
        if isinstance(averages.get(key), int | float)
    )


def _gains(gains: dict[str, Any]) -> str:
    """AP of the last layer if every transition of a class were undone, in percentage points."""
    return ", ".join(
        f"{kind} {100 * gain:+z.1f}"
        for kind, gain in gains.items()
        if isinstance(gain, int | float)
    )


def _use(header: dict[str, Any], use: dict[str, Any]) -> str:
    gini = use.get("gini")
    if header.get("part") != "matching" or not isinstance(gini, int | float):
        return ""
    return f"{use.get('dead')} of {len(use.get('matches', []))} queries, Gini {100 * gini:.1f}"


def _not_finite(summary: dict[str, Any]) -> str:
    count = summary.get("non_finite")
    return f"{count:,} predictions, left out of all averages" if count else ""


def _architecture(config: dict[str, Any]) -> str:
    backbone = config.get("backbone")
    name = backbone.get("name") if isinstance(backbone, dict) else backbone
    parts = (
        (config.get("family"), "{}"),
        (name, "{} backbone"),
        (config.get("encoder_layers"), "{} encoder layers"),
        (config.get("decoder_layers"), "{} decoder layers"),
        (config.get("hidden_dim"), "{} channels"),
    )
    return ", ".join(text.format(value) for value, text in parts if value is not None)


def _analysed(header: dict[str, Any]) -> str:
    seconds = _dict(header.get("timings")).get("seconds")
    took = f" in {seconds:,.0f} s" if isinstance(seconds, int | float) else ""
    return f"{_minute(str(header.get('created')))} on {header.get('device')}{took}"


def _minute(created: str) -> str:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".strip()


def _pairs(value: Any) -> str:
    items = _dict(value).items()
    return ", ".join(f"{key} {_short(item)}" for key, item in items if item is not None)


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
