"""Hypotheses from the paper's statements, each a comparison of two trainings, and their test."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mpdiag.config import PaperResult
from reports import paper
from reports.document import Highlight
from reports.formatting import format_difference, format_seed_count
from reports.reproduction.image_intervals import ImageInterval, ResampledRuns, image_interval
from reports.reproduction.results import MATCHING, PILOTED, SummaryMetric, TrainingResults
from reports.reproduction.seed_statistics import PairedDifference, paired_difference
from reports.reproduction.table_rows import TABLES, table3
from reports.reproduction.tables import AP, MIOU, UTIL, ReportedValue

UTIL1, MIOU1 = SummaryMetric("util", "Util¹", 1), SummaryMetric("miou_l", "mIoU-L¹", 1)
# Of nine layers, the third of each three attends to the feature map of stride 8.
_MIOU_AT_STRIDE_8 = tuple(
    SummaryMetric("miou_l", f"mIoU-L{power}", layer)
    for layer, power in ((3, "³"), (6, "⁶"), (9, "⁹"))
)

_TABLE1_ROWS = {"baseline": 0, "mp-first-layer": 1, "mp-all-layers": 2}


@dataclass(frozen=True, slots=True)
class TrainedPart:
    """A training and a part of its queries."""

    training: str
    part: str = MATCHING


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """`b` is above `a` (sign 1) or below it (sign -1) in `metric`.

    `paper` gives the published results of both, if they are not those of the table's rows.
    """

    target: str
    text: str
    metric: SummaryMetric
    a: TrainedPart
    b: TrainedPart
    sign: int = 1
    paper: tuple[PaperResult, PaperResult] | None = None


_BASELINE, _ALL_LAYERS = TrainedPart("baseline"), TrainedPart("mp-all-layers")
_MP_FIRST, _MP_ALL = TrainedPart("mp-first-layer", PILOTED), TrainedPart("mp-all-layers", PILOTED)


def _ap(target: str, text: str, a: str, b: str, sign: int = 1) -> Hypothesis:
    return Hypothesis(target, text, AP, TrainedPart(a), TrainedPart(b), sign)


def _shorter(data: str, text: str, a: str, b: str) -> Hypothesis:
    published = (table3(data, "Mask2Former"), table3(data, "MP-Former"))
    return replace(_ap("table3", f"MP-Former {text}", a, b), paper=published)


HYPOTHESES = (
    Hypothesis("table1", "Util¹ of the MP part exceeds Mask2Former's", UTIL1, _BASELINE, _MP_FIRST),
    Hypothesis("table1", "mIoU-L¹ of the MP part exceeds Mask2Former's",
               MIOU1, _BASELINE, _MP_FIRST),
    Hypothesis("table1", "Multi-layer MP raises Util of the MP part (mean over layers)",
               UTIL, _MP_FIRST, _MP_ALL),
    Hypothesis("table1", "Multi-layer MP raises mIoU-L of the MP part (mean over layers)",
               MIOU, _MP_FIRST, _MP_ALL),
    *(Hypothesis("table1", f"Multi-layer MP raises {metric.label} of the MP part, at stride 8",
                 metric, _MP_FIRST, _MP_ALL) for metric in _MIOU_AT_STRIDE_8),
    Hypothesis("table1", "Multi-layer MP raises Util¹ of the matching part",
               UTIL1, _BASELINE, _ALL_LAYERS),
    Hypothesis("table1", "Multi-layer MP raises Util of the matching part (mean over layers)",
               UTIL, _BASELINE, _ALL_LAYERS),
    Hypothesis("table1", "Multi-layer MP raises mIoU-L of the matching part (mean over layers)",
               MIOU, _BASELINE, _ALL_LAYERS),
    _shorter("COCO", "with 72% of the steps has higher AP than Mask2Former with all steps",
             "baseline", "mp-72-percent"),
    _shorter("ADE20K", "with half of the steps has higher AP than Mask2Former with all steps",
             "baseline", "mp-half"),
    _shorter("COCO", "after 36 epochs has higher AP than Mask2Former after 50 epochs",
             "coco-mask2former-50-epochs", "coco-mp-former-36-epochs"),
    _shorter("ADE20K", "after 80k steps has higher AP than Mask2Former after 160k steps",
             "ade20k-mask2former-160k", "ade20k-mp-former-80k"),
    _ap("table4", "MP training on 3 layers raises AP", "baseline", "mp-no-noise"),
    _ap("table4", "Label noise raises AP further", "mp-no-noise", "mp-label-noise"),
    _ap("table4", "Point noise raises AP further", "mp-label-noise", "mp-point-noise"),
    _ap("table4", "MP in all layers raises AP further", "mp-point-noise", "mp-all-layers"),
    _ap("table4", "All components together raise AP", "baseline", "mp-all-layers"),
    _ap("table5", "MP in three layers gives higher AP than in one",
        "mp-first-layer", "mp-label-noise"),
    _ap("table5", "MP in all layers gives higher AP than in three",
        "mp-label-noise", "mp-all-layers"),
    _ap("table5", "Point noise gives higher AP than no noise", "mp-label-noise", "mp-point-noise"),
    _ap("table5", "Shift noise gives lower AP than point noise",
        "mp-point-noise", "mp-shift-noise", -1),
    _ap("table5", "Scale noise gives lower AP than point noise",
        "mp-point-noise", "mp-scale-noise", -1),
    _ap("table5", "Scale noise gives lower AP than no noise",
        "mp-label-noise", "mp-scale-noise", -1),
    _ap("table6", "Coarse-to-fine maps give higher AP than large maps in all layers",
        "mp-all-large", "mp-all-layers"),
    _ap("table6", "Hard assignment in the MP part gives higher AP than matching",
        "mp-match", "mp-label-noise"),
    _ap("table7", "The fixed matching scheme lowers AP", "baseline", "fixed-matching", -1),
    _ap("table7", "The auxiliary loss lowers AP", "baseline", "auxiliary-loss", -1),
    Hypothesis("table7", "The fixed matching scheme raises Util, its aim (mean over layers)",
               UTIL, _BASELINE, TrainedPart("fixed-matching")),
    Hypothesis("table7", "The auxiliary loss raises mIoU-L, its aim (mean over layers)",
               MIOU, _BASELINE, TrainedPart("auxiliary-loss")),
    _ap("attention", "Without masked attention, AP is lower", "baseline", "unmasked", -1),
    _ap("attention", "Mask piloting raises AP without masked attention", "unmasked", "mp-unmasked"),
    Hypothesis("attention", "Mask piloting raises Util without masked attention (mean over layers)",
               UTIL, TrainedPart("unmasked"), TrainedPart("mp-unmasked")),
    Hypothesis("attention",
               "Mask piloting raises mIoU-L without masked attention (mean over layers)",
               MIOU, TrainedPart("unmasked"), TrainedPart("mp-unmasked")),
    _ap("noise", "Point noise gives higher AP than no noise", "mp-label-noise", "mp-point-noise"),
    _ap("noise", "Cell noise gives higher AP than no noise", "mp-label-noise", "mp-cell-noise"),
    _ap("noise", "Cell noise gives higher AP than point noise",
        "mp-point-noise", "mp-cell-noise"),
    _ap("noise", "Neighbour noise gives higher AP than no noise",
        "mp-label-noise", "mp-neighbour-noise"),
    _ap("noise", "Neighbour noise gives higher AP than point noise",
        "mp-point-noise", "mp-neighbour-noise"),
    _ap("query-input", "Mean features as MP queries raise AP", "baseline", "mp-feature-mean"),
    _ap("query-input", "Mask codes as MP queries raise AP", "baseline", "mp-mask-code"),
    _ap("query-input", "Attention masks give higher AP than mean features",
        "mp-feature-mean", "mp-all-layers"),
    _ap("query-input", "Attention masks give higher AP than mask codes",
        "mp-mask-code", "mp-all-layers"),
)  # fmt: skip


RESAMPLED_METRICS = tuple(dict.fromkeys(hypothesis.metric for hypothesis in HYPOTHESES))
"""Metrics whose differences get an interval over images."""


def evaluate_hypotheses(
    target: str,
    results: TrainingResults,
    trainings: frozenset[str],
    resampled: ResampledRuns | None = None,
) -> Iterator[tuple[Highlight, ReportedValue]]:
    """Test the hypotheses of a table whose trainings are among `trainings`."""
    for hypothesis in HYPOTHESES:
        a, b, metric = hypothesis.a, hypothesis.b, hypothesis.metric
        if hypothesis.target != target or not {a.training, b.training} <= trainings:
            continue
        difference = paired_difference(
            results.values(a.training, metric, a.part), results.values(b.training, metric, b.part)
        )
        verdict, value, mean = "unknown", "no seed has both runs", None
        if difference is not None:
            images = image_interval(
                resampled or {},
                (a.training, a.part),
                (b.training, b.part),
                metric,
                difference.seeds,
            )
            mean = difference.mean
            confirmed = images is None or images.confirms(mean)
            verdict = difference.verdict(hypothesis.sign) if confirmed else "undecided"
            value = _format(difference, images)
        text = f"{_target_name(target)}: {hypothesis.text}"
        yield (
            Highlight(verdict, text, value, _published_difference(hypothesis)),
            ReportedValue(target, f"hypothesis: {verdict}", hypothesis.text, b.part, metric.key,
                          metric.layer, "mean", mean),
        )  # fmt: skip


def _format(difference: PairedDifference, images: ImageInterval | None) -> str:
    """Return the difference with its intervals over seeds and images."""
    value = format_difference(difference.mean, difference.half_width)
    value += f" ({format_seed_count(len(difference.seeds))}"
    if images is not None:
        low, high = format_difference(images.low), format_difference(images.high)
        value += f"; over images {low} to {high}"
    return f"{value})"


def _target_name(target: str) -> str:
    return target.replace("table", "Table ") if target.startswith("table") else target.capitalize()


def _published_difference(hypothesis: Hypothesis) -> str:
    """Return the paper's difference in percentage points; empty if it is not published."""
    if hypothesis.paper is not None:
        a, b = (paper.published_ap(reference) for reference in hypothesis.paper)
    else:
        a, b = (_published_value(hypothesis, one) for one in (hypothesis.a, hypothesis.b))
    return "" if a is None or b is None else format_difference(b - a)


def _published_value(hypothesis: Hypothesis, trained: TrainedPart) -> float | None:
    metric = hypothesis.metric
    if hypothesis.target == "table1":
        row = paper.table1()[_TABLE1_ROWS[trained.training]]
        if row.part != trained.part:
            return None
        values = {"util": row.util, "miou_l": row.miou_l}[metric.key]
        return values[metric.layer - 1] if metric.layer else None
    if metric != AP:
        return None
    for table_row in TABLES[hypothesis.target]:
        if table_row.training == trained.training and table_row.paper is not None:
            return paper.published_ap(table_row.paper)
    return None
