"""The report of a reproduction as a document: claims first, then each table and figure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports import paper
from reports.document import Document, Highlight, Picture, Section, Value
from reports.figures import draw_curves
from reports.reproduction.figures import figure1, figure4
from reports.reproduction.hypotheses import evaluate_hypotheses
from reports.reproduction.results import SummaryMetric, TrainedRun, TrainingResults
from reports.reproduction.seed_statistics import DECISION_RULE, seed_statistics
from reports.reproduction.table_rows import TABLE3_AS_PUBLISHED, TABLES, TableRow
from reports.reproduction.tables import TableBuilder, ablation, shown_parts, table1, table3, table7
from reports.table1 import Table1, Table1Row

TITLES = {
    "table1": "Table 1: layers of Mask2Former and MP training",
    "table3": "Table 3: shorter trainings",
    "table4": "Table 4: components",
    "table5": "Table 5: layers and noise",
    "table6": "Table 6: feature maps and assignment",
    "table7": "Table 7: naive solutions",
}
_ABLATIONS = {
    "table4": ("Components, each added to those before", "baseline"),
    "table5": ("Layers of MP training, and noise on its masks", "mp-label-noise"),
    "table6": ("Feature maps, and assignment in the MP part", "mp-label-noise"),
}


@dataclass(frozen=True, slots=True)
class ReproductionContext:
    """How a reproduction was made, and what it left beside its runs.

    Attributes:
        targets: tables and figures, in the paper's order.
        size, about: how large, by name and in a line.
        command: that makes it again.
        machines: that trained, in words.
        seeds: asked for.
        costs: of models by training, as `mpdiag.reproduce.measurements` gives them.
        noise: IoU of noised masks, likewise; None where it was not asked for.
        explanations: paragraphs on each target, written by people.
    """

    targets: Sequence[str]
    size: str
    about: str
    command: str
    machines: Sequence[str]
    seeds: Sequence[int]
    costs: Mapping[str, Any]
    noise: Mapping[str, Any] | None
    explanations: Mapping[str, Sequence[str]]


def table_rows(target: str, *, as_published: bool) -> tuple[TableRow, ...]:
    """The rows of a table; Table 3 has others at the size of the paper."""
    return TABLE3_AS_PUBLISHED if as_published and target == "table3" else TABLES[target]


def build(trained: Sequence[TrainedRun], made: ReproductionContext) -> Document:
    """The document of all targets."""
    results = TrainingResults.read(trained)
    names = frozenset(one.name for one in trained)
    sections, findings, values = [], [], []
    for target in made.targets:
        section, numbers = _section(target, results, made)
        sections.append(section)
        values += numbers
        for finding, value in evaluate_hypotheses(target, results, names):
            findings.append(finding)
            values.append(value)
    opening = _opening(findings, results, made)
    title = f"MP-Former reproduced at size {made.size}"
    facts = tuple(_facts(results, made))
    return Document("report", title, facts, (opening, *sections), tuple(values))


def _opening(
    findings: Sequence[Highlight], results: TrainingResults, made: ReproductionContext
) -> Section:
    text = [f"Size {made.size}: {made.about}. Trainings with the seeds {_list(made.seeds)}."]
    if findings:
        counts = Counter(finding.answer for finding in findings)
        said = ", ".join(f"{counts[answer]} {answer}" for answer in sorted(counts, reverse=True))
        text += [f"Of {len(findings)} claims of the paper: {said}.", DECISION_RULE]
    if results.missing:
        text.append(f"Missing: {'; '.join(results.missing)}.")
    return Section("What holds here", tuple(text), tuple(findings))


def _section(
    target: str, results: TrainingResults, made: ReproductionContext
) -> tuple[Section, list[Value]]:
    remarks = tuple(made.explanations.get(target, ()))
    if target in ("figure1", "figure4"):
        drawn = (
            figure1(TABLES[target][0].training, results)
            if target == "figure1"
            else figure4(made.noise)
        )
        return Section(drawn.title, drawn.text, (), drawn.tables, drawn.pictures, remarks), []
    rows = table_rows(target, as_published=made.size == "paper")
    written = _table(target, rows, results, made)
    pictures = _curves(rows, results) if target == "table1" else ()
    title = TITLES[target]
    section = Section(title, (), (), tuple(written.tables), pictures, remarks)
    return section, written.values


def _table(
    target: str, rows: Sequence[TableRow], results: TrainingResults, made: ReproductionContext
) -> TableBuilder:
    if target == "table1":
        return table1(rows, results)
    if target == "table3":
        return table3(rows, results)
    if target == "table7":
        return table7(rows, results, made.costs)
    title, base = _ABLATIONS[target]
    return ablation(target, title, rows, results, base)


def _curves(rows: Sequence[TableRow], results: TrainingResults) -> tuple[Picture, ...]:
    """Table 1 as curves: means over seeds, and the paper's."""
    series = []
    for row, part in shown_parts(rows, results):
        layers = _layers(results.first(row.training, part))
        miou, util = (
            tuple(_mean(results, row.training, key, layer, part) for layer in layers)
            for key in ("miou_l", "util")
        )
        series.append(Table1Row(row.label, part, "run", miou, util))
    if not series:
        return ()
    series += [
        Table1Row(row.model, row.part, "paper", row.miou_l, row.util) for row in paper.table1()
    ]
    table = Table1(tuple(series), max(len(one.util) for one in series))
    caption = (
        "Means over seeds, and as published (grey; broken where a figure is not legible in our "
        "copy)."
    )
    alt = "mIoU-L and Util of each layer, ours and the paper's"
    return (Picture("table1.svg", draw_curves(table, "svg"), caption, alt),)


def _layers(run: Any) -> range:
    return range(1, run.num_layers + 1)


def _mean(results: TrainingResults, training: str, key: str, layer: int, part: str) -> float | None:
    found = seed_statistics(results.values(training, SummaryMetric(key, key, layer), part).values())
    return None if found is None else found.mean


def _facts(results: TrainingResults, made: ReproductionContext) -> Iterator[tuple[str, str]]:
    yield "Command", made.command
    yield "Size", f"{made.size}: {made.about}"
    yield "Seeds", _list(made.seeds)
    yield "Machine", _list(made.machines)
    runs = list(results.runs.values())
    if runs:
        images = sorted({f"{run.summary['num_images']:,}" for run in runs})
        names = sorted({str((run.header.get("dataset") or {}).get("name")) for run in runs})
        yield "Analysed on", f"{_list(images)} images of {_list(names)}"
        devices = sorted({str(run.header.get("device")) for run in runs})
        seconds = sum((run.header.get("timings") or {}).get("seconds") or 0 for run in runs)
        trained = sum(value or 0 for value in results.clocks.values())
        yield (
            "Time",
            f"{trained / 3600:.2f} h of training steps in {len(results.clocks)} trainings, "
            f"{seconds / 3600:.2f} h of {len(runs)} analyses, on {_list(devices)}",
        )
        created = sorted(str(run.header.get("created"))[:10] for run in runs)
        yield "Analysed between", f"{created[0]} and {created[-1]}"
        versions = sorted({_versions(run.header.get("versions")) for run in runs})
        yield "Versions", "; ".join(versions)
    if results.missing:
        yield "Missing", "; ".join(results.missing)


def _versions(versions: Any) -> str:
    items = versions.items() if isinstance(versions, dict) else ()
    return ", ".join(f"{name} {version}" for name, version in items)


def _list(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items))
