"""The report of a reproduction: a summary of the hypotheses, then each table and figure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reports.document import Document, Highlight, Picture, Section
from reports.figures import draw_curves
from reports.formatting import join
from reports.reproduction.figures import figure1, figure4
from reports.reproduction.hypotheses import evaluate_hypotheses
from reports.reproduction.image_intervals import ResampledRuns
from reports.reproduction.results import SummaryMetric, TrainedRun, TrainingResults
from reports.reproduction.seed_statistics import (
    DECISION_RULE,
    resolvable_effect,
    seed_statistics,
)
from reports.reproduction.table_rows import TABLE3_AS_PUBLISHED, TABLES, TableRow
from reports.reproduction.tables import (
    ReportedValue,
    SectionTables,
    ablation,
    table1,
    table3,
    table7,
    trained_parts,
)
from reports.table1 import Table1Row, Values, with_paper_rows

_TITLES = {
    "table1": "Table 1: layers of Mask2Former and MP training",
    "table3": "Table 3: shorter trainings",
    "table4": "Table 4: components",
    "table5": "Table 5: layers and noise",
    "table6": "Table 6: feature maps and assignment",
    "table7": "Table 7: naive solutions",
    "attention": "Without masked attention (not in the paper)",
    "noise": "Noise on each layer's own grid (not in the paper)",
    "query-input": "Other ways to give GT masks to the decoder (appendix D)",
}
_ABLATIONS = {
    "table4": ("Components, each added to those before", "baseline"),
    "table5": ("Layers of MP training, and noise on its masks", "mp-label-noise"),
    "table6": ("Feature maps, and assignment in the MP part", "mp-label-noise"),
    "attention": ("The matching part attends everywhere, MP queries within GT masks", "baseline"),
    "noise": ("MP in three layers, label noise, and noise on its masks", "mp-label-noise"),
    "query-input": ("How MP queries receive GT masks", "baseline"),
}


@dataclass(frozen=True, slots=True)
class ReproductionContext:
    """How a reproduction was made, and what was measured besides its runs.

    Attributes:
        targets: tables and figures, in the paper's order.
        size, description: name and description of the size.
        command: the command that repeats it.
        machines: descriptions of the machines that trained.
        costs: costs of models by training, from `mpdiag.reproduce.measurements.model_costs`.
        noise: from `mpdiag.reproduce.measurements.noise_overlap`; None if it was not measured.
        explanations: the user's paragraphs on each target.
        resampled: metrics of each run for the same samples of images.
        show_images: draw masks over the images; otherwise on a plain ground.
    """

    targets: Sequence[str]
    size: str
    description: str
    command: str
    machines: Sequence[str]
    costs: Mapping[str, Any]
    noise: Mapping[str, Any] | None
    explanations: Mapping[str, Sequence[str]]
    resampled: ResampledRuns = field(default_factory=dict)
    show_images: bool = True


def table_rows(target: str, *, as_published: bool) -> tuple[TableRow, ...]:
    """Return the rows of a table; Table 3 has other rows at size paper (`as_published`)."""
    return TABLE3_AS_PUBLISHED if as_published and target == "table3" else TABLES[target]


def build_reproduction_report(
    trained: Sequence[TrainedRun], context: ReproductionContext
) -> Document:
    """Return the report of all targets."""
    results = TrainingResults.read(trained)
    trainings = frozenset(one.name for one in trained)
    sections, highlights, values = [], [], []
    for target in context.targets:
        section, section_values = _section(target, results, context)
        sections.append(section)
        values += section_values
        for highlight, value in evaluate_hypotheses(target, results, trainings, context.resampled):
            highlights.append(highlight)
            values.append(value)
    environment = Section("Settings and environment", facts=tuple(_facts(results, context)))
    return Document(
        "report",
        f"Reproduction of MP-Former at size {context.size}",
        (_summary(highlights, results, context), *sections, environment),
        ReportedValue._fields,
        tuple(values),
    )


def _summary(
    highlights: Sequence[Highlight], results: TrainingResults, context: ReproductionContext
) -> Section:
    seeds = results.seeds
    size = f"Size {context.size}: {context.description}."
    text = [f"{size} Seeds: {join(seeds)}." if seeds else size]
    if highlights:
        counts = Counter(highlight.label for highlight in highlights)
        verdicts = join([f"{counts[label]} {label}" for label in sorted(counts, reverse=True)])
        text += [f"{len(highlights)} hypotheses: {verdicts}.", DECISION_RULE]
    if highlights and len(seeds) > 1:
        text.append(
            f"{len(seeds)} seeds resolve a difference of {resolvable_effect(len(seeds)):.1f} "
            "standard deviations of the differences between seeds (power 80%)."
        )
    if results.missing:
        text.append(f"Missing: {'; '.join(results.missing)}.")
    return Section("Summary", tuple(text), tuple(highlights))


def _section(
    target: str, results: TrainingResults, context: ReproductionContext
) -> tuple[Section, list[ReportedValue]]:
    remarks = tuple(context.explanations.get(target, ()))
    if target == "figure1":
        return figure1(
            TABLES[target][0].training, results, remarks, show_images=context.show_images
        ), []
    if target == "figure4":
        return figure4(context.noise, remarks), []
    rows = table_rows(target, as_published=context.size == "paper")
    tables = _tables(target, rows, results, context)
    pictures = _curves(rows, results) if target == "table1" else ()
    section = Section(
        _TITLES[target], remarks=remarks, tables=tuple(tables.tables), pictures=pictures
    )
    return section, tables.values


def _tables(
    target: str, rows: Sequence[TableRow], results: TrainingResults, context: ReproductionContext
) -> SectionTables:
    if target == "table1":
        return table1(rows, results)
    if target == "table3":
        return table3(rows, results)
    if target == "table7":
        return table7(rows, results, context.costs)
    title, reference = _ABLATIONS[target]
    return ablation(target, title, rows, results, reference)


def _curves(rows: Sequence[TableRow], results: TrainingResults) -> tuple[Picture, ...]:
    """Draw the means over seeds of Table 1, and the paper's values."""
    curves = []
    for row, part in trained_parts(rows, results):
        miou_l, util = (_means(results, row.training, key, part) for key in ("miou_l", "util"))
        curves.append(Table1Row(row.label, part, "run", miou_l, util))
    if not curves:
        return ()
    caption = (
        "Means over seeds, and the published values (grey; gaps where a figure is not available)."
    )
    alt = "mIoU-L and Util of each layer, measured and published"
    return (Picture("table1.svg", draw_curves(with_paper_rows(curves), "svg"), caption, alt),)


def _means(results: TrainingResults, training: str, key: str, part: str) -> Values:
    run = results.first_run(training, part)
    assert run is not None
    statistics = (
        seed_statistics(results.values(training, SummaryMetric(key, key, layer), part).values())
        for layer in range(1, run.num_layers + 1)
    )
    return tuple(None if one is None else one.mean for one in statistics)


def _facts(results: TrainingResults, context: ReproductionContext) -> Iterator[tuple[str, str]]:
    yield "Command", context.command
    yield "Size", f"{context.size}: {context.description}"
    if results.seeds:
        yield "Seeds", join(results.seeds)
    if context.machines:
        yield "Machine", "; ".join(context.machines)
    runs = list(results.runs.values())
    if runs:
        images = sorted({f"{run.summary['num_images']:,}" for run in runs})
        names = sorted({str(run.header["dataset"].get("name")) for run in runs})
        yield "Data", f"{join(images)} images of {join(names)}"
        devices = sorted({str(run.header.get("device")) for run in runs})
        analysis = sum(run.header["timings"].get("seconds") or 0 for run in runs)
        training = sum(value or 0 for value in results.seconds.values())
        yield (
            "Time",
            f"{training / 3600:.2f} h of training steps in {len(results.seconds)} trainings, "
            f"{analysis / 3600:.2f} h of {len(runs)} analyses, on {join(devices)}; other processes "
            "may have shared the machine",
        )
        created = sorted(str(run.header.get("created"))[:10] for run in runs)
        yield "Date of the analyses", " to ".join(dict.fromkeys((created[0], created[-1])))
        versions = sorted({_versions(run.header["versions"]) for run in runs})
        yield "Versions", "; ".join(versions)
    if results.missing:
        yield "Missing", "; ".join(results.missing)


def _versions(versions: dict[str, Any]) -> str:
    return join([f"{name} {version}" for name, version in versions.items()])
