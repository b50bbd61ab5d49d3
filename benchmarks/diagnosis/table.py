"""Tables of the benchmark: per fault, confusion of causes, failures, and the goals."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.diagnosis.cases import HALVES, list_cases
from benchmarks.diagnosis.experiment import CaseResult
from benchmarks.diagnosis.faults import FAULTS

MIN_COST = 0.01  # AP as a fraction; a diagnosis need not find a fault that costs less
TOLERANCE = 0.3  # of the cost, for AP at stake; MIN_COST is tolerated too
NOTHING = "(nothing)"

BEGIN, END = "<!-- bench diagnose: begin -->", "<!-- bench diagnose: end -->"


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal with what was measured."""

    text: str
    measured: str
    met: bool


def counts(result: CaseResult) -> bool:
    """Return whether a fault costs enough that a diagnosis must find it."""
    return result.cause is not None and result.cost >= MIN_COST


def is_stake_close(result: CaseResult) -> bool:
    """Return whether AP at stake is close to what removing the fault gains."""
    if result.at_stake is None:
        return False
    return abs(result.at_stake - result.cost) <= max(TOLERANCE * result.cost, MIN_COST)


def goals(results: Iterable[CaseResult]) -> list[Goal]:
    """Return the goals of the benchmark, and whether results meet them."""
    results = list(results)
    counted = [result for result in results if counts(result)]
    found = [result for result in counted if result.rank is not None]
    first = sum(result.rank == 1 for result in counted)
    top = sum(result.rank is not None and result.rank <= 3 for result in counted)
    close = sum(map(is_stake_close, found))
    healthy = [result for result in results if result.fault is None]
    extra = sum(result.num_findings for result in healthy)
    return [
        Goal(
            "the cause ranks first in at least 90% of the cases that cost 1 AP or more",
            _share(first, len(counted)),
            bool(counted) and first >= 0.9 * len(counted),
        ),
        Goal(
            "it is among the first three in all of them",
            _share(top, len(counted)),
            bool(counted) and top == len(counted),
        ),
        Goal(
            "AP at stake is within 30% or 1 AP of the cost, wherever the cause is found",
            _share(close, len(found)),
            bool(found) and close == len(found),
        ),
        Goal(
            "at most one finding in 10 runs of healthy models",
            f"{extra} in {len(healthy)} runs",
            bool(healthy) and 10 * extra <= len(healthy),
        ),
    ]


def markdown_report(results: Sequence[CaseResult]) -> str:
    """Return all tables as Markdown."""
    halves = sorted({result.half for result in results})
    total = sum(len(list_cases(half)) for half in HALVES if half in halves)
    parts = [
        f"{len(results)} of the {total} cases of the {' and '.join(halves)} half.",
        _table(
            ["Goal", "Measured", "Met"],
            [[goal.text, goal.measured, "yes" if goal.met else "no"] for goal in goals(results)],
        ),
        "**Per fault.** Cases that cost 1 AP or more count. Cost and AP at stake are means in "
        "percentage points, over the counted cases and over those of them with the cause.",
        _per_fault(results),
        "**Confusion.** Number of counted cases by planted cause (rows) and first finding "
        "(columns).",
        _confusion([result for result in results if counts(result)]),
        "**Failures.** Counted cases in which the cause does not rank first, and healthy models "
        "with findings.",
        _failures(results),
    ]
    return "\n\n".join(parts) + "\n"


def replace_report(text: str, report: str) -> str:
    """Return a Markdown text with a report between its marker comments, or appended with them."""
    block = f"{BEGIN}\n\n{report}\n{END}"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return f"{text.rstrip()}\n\n{block}\n".lstrip()
    return before + block + after


def _per_fault(results: Sequence[CaseResult]) -> str:
    rows = []
    for fault in FAULTS.values():
        own = [result for result in results if result.fault == fault.name]
        counted = [result for result in own if counts(result)]
        found = [result for result in counted if result.at_stake is not None]
        if own:
            rows.append(
                [
                    fault.name,
                    fault.cause,
                    str(len(own)),
                    str(len(counted)),
                    str(sum(result.rank == 1 for result in counted)),
                    str(sum(result.rank is not None and result.rank <= 3 for result in counted)),
                    _mean(counted, lambda result: result.cost),
                    _mean(found, lambda result: result.at_stake or 0.0),
                    f"{sum(map(is_stake_close, found))} of {len(found)}",
                ]
            )
    header = ["Fault", "Cause", "Cases", "Counted", "First", "Top 3", "Cost", "AP at stake",
              "Within 30% or 1 AP"]  # fmt: skip
    return _table(header, rows)


def _confusion(counted: Sequence[CaseResult]) -> str:
    pairs = Counter((result.cause or "", _first(result)) for result in counted)
    causes = list(dict.fromkeys(fault.cause for fault in FAULTS.values()))
    found = {name for _, name in pairs}
    columns = [name for name in causes if name in found]
    columns += sorted(found - {*causes, NOTHING}) + [NOTHING] * (NOTHING in found)
    rows = [
        [cause, *(str(pairs[cause, column] or "") for column in columns)]
        for cause in causes
        if any(planted == cause for planted, _ in pairs)
    ]
    return _table(["Planted", *columns], rows)


def _failures(results: Sequence[CaseResult]) -> str:
    failed = [
        result
        for result in results
        if (counts(result) and result.rank != 1) or (result.fault is None and result.num_findings)
    ]
    rows = [
        [
            result.case,
            f"{100 * result.ap_healthy:.1f}",
            f"{100 * result.ap:.1f}",
            result.cause or "none",
            str(result.rank or "-"),
            ", ".join(f"{cause} {100 * at_stake:.1f}" for cause, at_stake in result.findings[:3])
            or NOTHING,
        ]
        for result in failed
    ]
    return _table(["Case", "AP healthy", "AP", "Cause", "Rank", "First findings"], rows)


def _first(result: CaseResult) -> str:
    return result.findings[0][0] if result.findings else NOTHING


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else "no case"


def _mean(results: Sequence[CaseResult], value: Callable[[CaseResult], float]) -> str:
    return f"{100 * sum(map(value, results)) / len(results):.1f}" if results else "-"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "None."
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
