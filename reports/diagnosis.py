"""The report of a diagnosis: ranked findings, and what each layer costs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpdiag.store.causes import CAUSES
from mpdiag.store.diagnosis import Diagnosis, Finding, points
from mpdiag.store.files import replace_file
from reports.document import Document, Row, Section, Table, render_html
from reports.formatting import NO_VALUE

_LAYER_COLUMNS = {
    "pq": "PQ",
    "miou": "mIoU",
    "ap": "AP",
    "ap50": "AP50",
    "classification": "Class",
    "localisation": "Localisation",
    "both": "Both",
    "duplicate": "Duplicate",
    "background": "Background",
    "missed": "Missed",
    "fading": "Fading",
    "exacerbation": "Exacerbation",
    "d_ece": "D-ECE",
    "la_ece": "LaECE",
}
TIDE_ERRORS = ("classification", "localisation", "both", "duplicate", "background", "missed")
_LAYERS_NOTE = (
    "Percent. The columns from Class to Missed are the AP50 that each of TIDE's errors costs. "
    "Fading is the share of objects found in the layer that the last layer misses; exacerbation "
    "is the share of the last layer's false positives that had a lower score in the layer."
)
_MODEL_COLUMNS = {
    "attention_recall": "Attention recall",
    "attention_precision": "Attention precision",
    "gt_without_cell": "GT without a cell",
    "queries_per_gt": "Queries per GT",
    "bfloat16_gain": "bfloat16",
    "float16_gain": "float16",
    "multiply_adds": "G multiply-adds",
}
_MODEL_NOTE = (
    "Percent, except queries and multiply-adds. Recall and precision of attention masks with the "
    "GT of their query; GT that no cell of the attention grid represents; queries whose attention "
    "mask has an IoU of at least 0.5 with a GT; the score that rounded activations gain; "
    "multiply-adds of a model that ends with the layer."
)
_COUNTS = {"queries_per_gt": 1.0, "multiply_adds": 1e-9}  # key -> scale; others are fractions
_MEASUREMENTS = {
    "recall_last_layer": "GT that the last layer finds",
    "recall_any_layer": "GT that any layer finds",
    "flip_gain": "{score} gained by images flipped left to right",
    "attention_gt_gain": "{score} gained by GT as attention masks of layers 1 to 3",
}
CLASS_PAIRS = "predicted_and_annotated"  # evidence that holds pairs of classes
MAX_LISTED = 12
LOW_RECALL = 0.25
FEW_IMAGES = 50


def build_diagnosis(diagnosis: Diagnosis, name: str) -> Document:
    """Return the page of a diagnosis.

    Args:
        diagnosis: the diagnosis.
        name: name of the model or run.
    """
    score = diagnosis.score_label
    text = (
        f"{diagnosis.headline} The {score} at stake is what the remedy gains, after the remedies "
        "of the findings above it; the interval is the 95% interval over resampled images."
    )
    findings = [
        Section(
            f"{place}. {CAUSES[finding.cause].title}: {points(finding.at_stake)} {score}",
            (finding.remedy,),
            facts=tuple(finding_facts(finding, diagnosis.class_names, score)),
        )
        for place, finding in enumerate(diagnosis.findings, start=1)
    ]
    sentences = (text, diagnosis.summary, found_objects(diagnosis))
    sections = [Section("Summary", tuple(filter(None, sentences))), *findings]
    if diagnosis.layers:
        tables = layer_scores_table(diagnosis.layers), model_table(diagnosis.layers)
        shown = tuple(table for table in tables if table.rows)
        sections.append(Section("Layers", tables=shown, facts=tuple(_measurements(diagnosis))))
    return Document("diagnosis", f"{name}: diagnosis", tuple(sections))


def found_objects(diagnosis: Diagnosis) -> str:
    """Return how many objects the last layer finds and how far the numbers go; "" if unknown.

    For AP, which has no score threshold, the best one is named.
    """
    recall = diagnosis.evidence.get("recall_last_layer")
    if not isinstance(recall, int | float):
        return ""
    text = f"The last layer finds {100 * recall:.0f}% of the objects (IoU 0.5, right class)."
    threshold = diagnosis.layers[-1].get("best_threshold") if diagnosis.layers else None
    if isinstance(threshold, int | float) and diagnosis.score_name == "ap":
        text += f" The score threshold with the highest F1 is {threshold:g}."
    if recall < LOW_RECALL:
        text += (
            " No change of its outputs can repair that: compare the preprocessing and the order of "
            "the classes with those of the training (mpdiag info, mpdiag data check), and the loss "
            "with that of a training that works."
        )
    if diagnosis.num_images < FEW_IMAGES:
        text += f" {diagnosis.num_images} images are few: other images may give other causes."
    return text


def error_costs(diagnosis: Diagnosis) -> list[str]:
    """Return TIDE's errors of the last layer as `name points`, the highest first.

    They are of AP, so there are none for another score.
    """
    if not diagnosis.layers or diagnosis.score_name != "ap":
        return []
    last = diagnosis.layers[-1]
    costs = {name: last[name] for name in TIDE_ERRORS if isinstance(last.get(name), int | float)}
    return [f"{name} {100 * costs[name]:.1f}" for name in sorted(costs, key=lambda x: -costs[x])]


def finding_facts(
    finding: Finding, classes: Sequence[str] = (), score: str = "AP"
) -> Iterator[tuple[str, str]]:
    """Yield label and text of what is known about a finding; `score` is the label of the score."""
    low, high = finding.interval
    yield f"{score} at stake", f"{points(finding.at_stake)} ({points(low)} to {points(high)})"
    yield "Confidence", f"{100 * finding.confidence:.0f}% of the resamples gain"
    yield from finding_details(finding, classes)


def finding_details(
    finding: Finding, classes: Sequence[str], *, of_layers: bool = True
) -> Iterator[tuple[str, str]]:
    """Yield label and text of where a finding happens and of its evidence.

    Args:
        classes: names of the classes; a class without a name is shown as its number.
        of_layers: include evidence with a number for each layer.
    """
    for label, values in (
        ("Layers", finding.layers),
        ("Classes", [_format(one, classes) for one in finding.classes]),
        ("Queries", finding.queries),
    ):
        if values:
            yield label, listed(values)
    for key, value in finding.evidence.items():
        is_of_layers = isinstance(value, list) and any(isinstance(one, float) for one in value)
        if of_layers or not is_of_layers:
            names = classes if key == CLASS_PAIRS else ()
            yield key.replace("_", " ").capitalize(), _format(value, names)


def listed(values: Sequence[Any]) -> str:
    """Return the values with commas; of many, the first."""
    text = ", ".join(map(str, values[:MAX_LISTED]))
    return text if len(values) <= MAX_LISTED else f"{text} and {len(values) - MAX_LISTED} more"


def _format(value: Any, classes: Sequence[str] = ()) -> str:
    """Return a value as text. With `classes`, an integer is a class."""
    if isinstance(value, int) and 0 <= value < len(classes):
        return classes[value]
    if isinstance(value, float):
        return f"{value:.3g}"
    if value is None:
        return NO_VALUE
    if isinstance(value, list):
        return listed([_format_entry(one, classes) for one in value])
    return value if isinstance(value, str) else json.dumps(value)


def _format_entry(value: Any, classes: Sequence[str]) -> str:
    if isinstance(value, list):
        return " → ".join(_format(one, classes) for one in value)
    return _format(value, classes)


def _measurements(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    """Yield label and text of the measurements that belong to no finding."""
    for key, label in _MEASUREMENTS.items():
        value = diagnosis.evidence.get(key)
        if isinstance(value, int | float):
            gain = key.endswith("_gain")
            text = label.format(score=diagnosis.score_label)
            yield text, points(value) if gain else f"{100 * value:.1f}%"


def layer_scores_table(layers: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of the scores of each layer."""
    tasks = {key for layer in layers for key in ("pq", "miou") if key in layer}
    columns = {k: v for k, v in _LAYER_COLUMNS.items() if k not in ("pq", "miou") or k in tasks}
    return _layer_table(layers, columns, _LAYERS_NOTE)


def model_table(layers: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of what running the model measured in each layer; without rows for a run."""
    measured = any(key in layer for layer in layers for key in _MODEL_COLUMNS)
    return _layer_table(layers if measured else (), _MODEL_COLUMNS, _MODEL_NOTE)


def _layer_table(
    layers: Sequence[Mapping[str, Any]], columns: Mapping[str, str], note: str
) -> Table:
    rows = []
    for layer in layers:
        cells = [_cell(key, layer.get(key)) for key in columns]
        rows.append(Row((str(layer.get("layer")), *cells)))
    return Table("", ("Layer", *columns.values()), tuple(rows), note)


def _cell(key: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return NO_VALUE
    return f"{_COUNTS[key] * value:.3g}" if key in _COUNTS else f"{100 * value:z.1f}"


def write_diagnosis(document: Document, path: Path) -> None:
    """Write the page as one HTML file.

    Raises:
        OutputError: the file cannot be written.
    """
    replace_file(path, render_html(document))
