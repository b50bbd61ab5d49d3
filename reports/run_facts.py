"""Facts about a run: what was analysed, how, and the main results."""

import json
from datetime import datetime
from pathlib import PurePath
from typing import Any

from mpdiag.store import Run
from reports.formatting import format_scores

_AP = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP_S",
    "ap_medium": "AP_M",
    "ap_large": "AP_L",
}
_PQ = {"pq": "PQ", "sq": "SQ", "rq": "RQ", "pq_things": "PQ^Th", "pq_stuff": "PQ^St"}
_MIOU = {"miou": "mIoU", "miou_in_gt": "mIoU of classes in the GT"}
SCORE_LABELS = {**_AP, **_PQ, **_MIOU}
"""Label of each score of a run that is not of a layer."""
_ORACLE = {"matched_iou": "IoU of matched masks", "best_iou": "of any mask"}


def run_facts(run: Run) -> list[tuple[str, str]]:
    """Return label and text of each known fact."""
    header, summary = run.header, run.summary
    checkpoint, dataset = header["checkpoint"], header["dataset"]
    sha = str(checkpoint.get("sha256") or "")
    dataset_name = " ".join(str(dataset[key]) for key in ("name", "split") if dataset.get(key))
    annotations = PurePath(str(dataset.get("annotation_file") or "")).name
    facts = [
        ("Checkpoint", f"{checkpoint.get('path')}" + (f" (sha256 {sha[:12]}…)" if sha else "")),
        ("Method", str(header.get("method") or "")),
        ("Architecture", _architecture(header["architecture"])),
        ("Data set", dataset_name + (f" ({annotations})" if annotations else "")),
        ("Task", str(header.get("task") or "")),
        ("Images", f"{summary['num_images']:,} with {summary['num_gt']:,} objects"),
        ("AP of the last layer", format_scores(_AP, summary.get("ap"))),
        ("PQ of the last layer", format_scores(_PQ, summary.get("pq"))),
        ("mIoU of the last layer", format_scores(_MIOU, summary.get("miou"))),
        ("AP gained if transitions were undone", _gains(summary.get("ap_gains") or {})),
        ("Best layer of each object", format_scores(_ORACLE, summary.get("oracle"))),
        ("Queries", f"{summary['num_queries']:,} in {summary['num_layers']} layers"),
        ("Unmatched queries", _unmatched(header, summary.get("query_use") or {})),
        ("Non-finite predictions", _non_finite(summary)),
        ("Settings", _pairs(header["settings"])),
        ("Analysed", _analysed(header)),
        ("Versions", _pairs(header["versions"])),
    ]
    return [(label, value) for label, value in facts if value]


def _gains(gains: dict[str, Any]) -> str:
    """Return the AP that undoing all transitions of a class would gain, in percentage points."""
    return ", ".join(
        f"{kind} {100 * gain:+z.1f}"
        for kind, gain in gains.items()
        if isinstance(gain, int | float)
    )


def _unmatched(header: dict[str, Any], usage: dict[str, Any]) -> str:
    gini = usage.get("gini")
    if header.get("part") != "matching" or not isinstance(gini, int | float):
        return ""
    return f"{usage.get('dead')} of {len(usage.get('matches', []))} queries, Gini {100 * gini:.1f}"


def _non_finite(summary: dict[str, Any]) -> str:
    count = summary.get("non_finite")
    if not isinstance(count, int) or not count:
        return ""
    layers = [{"layer": 0, **(summary.get("m0") or {})}, *summary["layers"]]
    # This share has a value if any mask of the layer is finite.
    without = [str(x.get("layer")) for x in layers if x.get("empty_masks", 0) is None]
    text = f"{count:,}, left out of all averages"
    return f"{text}; no finite prediction in layer {', '.join(without)}" if without else text


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
    seconds = header["timings"].get("seconds")
    duration = f" in {seconds:,.0f} s" if isinstance(seconds, int | float) else ""
    return f"{_format_time(str(header.get('created')))} on {header.get('device')}{duration}"


def _format_time(created: str) -> str:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".strip()


def _pairs(section: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_short(x)}" for key, x in section.items() if x is not None)


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
