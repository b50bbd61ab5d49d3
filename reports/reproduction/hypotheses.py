"""What the paper claims, as comparisons of two trainings, and whether it holds here."""

from collections.abc import Iterator
from dataclasses import dataclass

from mpdiag.config import Published
from reports import paper
from reports.document import Highlight, Value
from reports.formatting import format_difference, format_seed_count
from reports.reproduction.results import MATCHING, PILOTED, SummaryMetric, TrainingResults
from reports.reproduction.seed_statistics import paired_difference
from reports.reproduction.table_rows import TABLES, table3

AP = SummaryMetric("ap", "AP")
UTIL1, MIOU1 = SummaryMetric("util", "Util¹", 1), SummaryMetric("miou_l", "mIoU-L¹", 1)
UTIL, MIOU = SummaryMetric("util", "Util, mean"), SummaryMetric("miou_l", "mIoU-L, mean")

_SERIES = {"baseline": 0, "mp-first-layer": 1, "mp-all-layers": 2}  # rows of the paper's Table 1


@dataclass(frozen=True, slots=True)
class Point:
    """A training and a part of its queries."""

    training: str
    part: str = MATCHING


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """`b` is above `a` (sign 1) or below it (-1) in a measure.

    `paper` is where the paper has both, where that is not in the rows of the table.
    """

    target: str
    text: str
    measure: SummaryMetric
    a: Point
    b: Point
    sign: int = 1
    paper: tuple[Published, Published] | None = None


_BASE = Point("baseline")
_FIRST, _ALL = Point("mp-first-layer", PILOTED), Point("mp-all-layers", PILOTED)
_TABLE5 = "table5"


def _ap(target: str, text: str, a: str, b: str, sign: int = 1) -> Hypothesis:
    return Hypothesis(target, text, AP, Point(a), Point(b), sign)


def _shorter(data: str, text: str, a: str, b: str) -> Hypothesis:
    published = (table3(data, "Mask2Former"), table3(data, "MP-Former"))
    return Hypothesis("table3", f"MP-Former {text}", AP, Point(a), Point(b), 1, published)


HYPOTHESES = (
    Hypothesis("table1", "Util¹ of the MP part exceeds Mask2Former's", UTIL1, _BASE, _FIRST),
    Hypothesis("table1", "mIoU-L¹ of the MP part exceeds Mask2Former's", MIOU1, _BASE, _FIRST),
    Hypothesis(
        "table1",
        "Multi-layer MP raises the MP part's Util, in the mean of the layers",
        UTIL,
        _FIRST,
        _ALL,
    ),
    Hypothesis(
        "table1",
        "Multi-layer MP raises the MP part's mIoU-L, in the mean of the layers",
        MIOU,
        _FIRST,
        _ALL,
    ),
    Hypothesis(
        "table1",
        "Util¹ of the matching part rises under multi-layer MP training",
        UTIL1,
        _BASE,
        Point("mp-all-layers"),
    ),
    Hypothesis(
        "table1",
        "Util of the matching part rises so in the mean of the layers",
        UTIL,
        _BASE,
        Point("mp-all-layers"),
    ),
    Hypothesis(
        "table1",
        "mIoU-L of the matching part rises so in the mean of the layers",
        MIOU,
        _BASE,
        Point("mp-all-layers"),
    ),
    _shorter(
        "COCO",
        "with 72% of the steps exceeds the AP of Mask2Former with all",
        "baseline",
        "mp-72-percent",
    ),
    _shorter(
        "ADE20K",
        "with half of the steps exceeds the AP of Mask2Former with all",
        "baseline",
        "mp-half",
    ),
    _shorter(
        "COCO",
        "after 36 epochs exceeds the AP of Mask2Former after 50",
        "coco-mask2former-50-epochs",
        "coco-mp-former-36-epochs",
    ),
    _shorter(
        "ADE20K",
        "after 80k steps exceeds the AP of Mask2Former after 160k",
        "ade20k-mask2former-160k",
        "ade20k-mp-former-80k",
    ),
    _ap("table4", "MP training on 3 layers raises AP", "baseline", "mp-no-noise"),
    _ap("table4", "Label noise raises AP further", "mp-no-noise", "mp-label-noise"),
    _ap("table4", "Point noise raises AP further", "mp-label-noise", "mp-point-noise"),
    _ap("table4", "MP in all layers raises AP further", "mp-point-noise", "mp-all-layers"),
    _ap("table4", "All components together raise AP", "baseline", "mp-all-layers"),
    _ap(
        _TABLE5, "MP in three layers gives more AP than in one", "mp-first-layer", "mp-label-noise"
    ),
    _ap(_TABLE5, "MP in all layers gives more AP than in three", "mp-label-noise", "mp-all-layers"),
    _ap(_TABLE5, "Point noise gives more AP than none", "mp-label-noise", "mp-point-noise"),
    _ap(
        _TABLE5,
        "Shift noise gives less AP than point noise",
        "mp-point-noise",
        "mp-shift-noise",
        -1,
    ),
    _ap(
        _TABLE5,
        "Scale noise gives less AP than point noise",
        "mp-point-noise",
        "mp-scale-noise",
        -1,
    ),
    _ap(_TABLE5, "Scale noise gives less AP than none", "mp-label-noise", "mp-scale-noise", -1),
    _ap(
        "table6",
        "Coarse-to-fine maps give more AP than large ones in all layers",
        "mp-all-large",
        "mp-all-layers",
    ),
    _ap(
        "table6",
        "Hard assignment in the MP part gives more AP than matching",
        "mp-match",
        "mp-label-noise",
    ),
    _ap("table7", "A fixed matching scheme loses AP", "baseline", "fixed-matching", -1),
    _ap("table7", "The auxiliary loss loses AP", "baseline", "auxiliary-loss", -1),
    Hypothesis(
        "table7",
        "A fixed matching scheme raises Util (its aim), in the mean of the layers",
        UTIL,
        _BASE,
        Point("fixed-matching"),
    ),
    Hypothesis(
        "table7",
        "The auxiliary loss raises mIoU-L (its aim), in the mean of the layers",
        MIOU,
        _BASE,
        Point("auxiliary-loss"),
    ),
)
"""Those of the tables; what the paper says without printing a figure has none beside it."""


def evaluate_hypotheses(
    target: str, results: TrainingResults, trainings: frozenset[str]
) -> Iterator[tuple[Highlight, Value]]:
    """The claims of a table whose trainings were asked for."""
    for claim in HYPOTHESES:
        if claim.target != target or not {claim.a.training, claim.b.training} <= trainings:
            continue
        found = paired_difference(
            results.values(claim.a.training, claim.measure, claim.a.part),
            results.values(claim.b.training, claim.measure, claim.b.part),
        )
        answer, said = "unknown", "no seed has both runs"
        if found is not None:
            answer = found.verdict(claim.sign)
            said = f"{format_difference(found.mean, found.half)} ({format_seed_count(found.count)})"
        text = f"{target.replace('table', 'Table ')}: {claim.text}"
        yield (
            Highlight(text, answer, said, _published(claim)),
            Value(target, f"claim: {answer}", claim.text, claim.b.part, claim.measure.key,
                  claim.measure.layer, "mean", None if found is None else found.mean),
        )  # fmt: skip


def _published(claim: Hypothesis) -> str:
    """The paper's difference in percentage points; empty where it prints none."""
    if claim.paper is not None:
        a, b = (_fraction(reference) for reference in claim.paper)
    else:
        a, b = (_figure(claim, point) for point in (claim.a, claim.b))
    return "" if a is None or b is None else format_difference(b - a)


def _figure(claim: Hypothesis, point: Point) -> float | None:
    if claim.target == "table1":
        row = paper.table1()[_SERIES[point.training]]
        if row.part != point.part:
            return None
        values = {"util": row.util, "miou_l": row.miou_l}[claim.measure.key]
        return values[claim.measure.layer - 1] if claim.measure.layer else None
    if claim.measure != AP:
        return None
    for row_of in TABLES[claim.target]:
        if row_of.training == point.training and row_of.paper is not None:
            return _fraction(row_of.paper)
    return None


def _fraction(reference: Published) -> float | None:
    """The AP of a row of the paper."""
    value = paper.published(reference).get("AP")
    return None if value is None else value / 100
