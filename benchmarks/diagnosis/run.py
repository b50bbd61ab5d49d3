"""Run the benchmark and print its tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape

import mpdiag
from benchmarks.diagnosis.cases import Case
from benchmarks.diagnosis.experiment import CaseResult, Experiment, HealthySource
from benchmarks.diagnosis.table import markdown_report, replace_report
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.data import SegmentationDataset
from mpdiag.store.files import replace_file


def run_benchmark(
    source: HealthySource,
    cases: Sequence[Case],
    directory: Path,
    console: Console,
    markdown: Path | None = None,
) -> list[CaseResult]:
    """Run cases, print their tables, and return the results.

    Args:
        source: healthy model and images.
        cases: the cases; those in the results file are not run again.
        directory: directory of results and scratch files.
        console: console for progress and tables.
        markdown: file to write the tables into, between its marker comments.
    """
    results = []
    for result in Experiment(source, directory, diagnose).run(cases):
        results.append(result)
        found = ", ".join(f"{cause} {100 * stake:.1f}" for cause, stake in result.findings[:3])
        console.print(
            f"{len(results)}/{len(cases)} {result.case}: costs {100 * result.cost:.1f} AP, rank "
            f"{result.rank}; {escape(found)} ({result.seconds:.0f} s)",
            soft_wrap=True,
        )
    report = markdown_report(results)
    console.print(Markdown(report))
    if markdown is not None:
        text = markdown.read_text(encoding="utf-8") if markdown.is_file() else ""
        replace_file(markdown, replace_report(text, report).encode())
    return results


def diagnose(
    loaded: LoadedCheckpoint, data: SegmentationDataset, directory: Path
) -> dict[str, Any]:
    """Diagnose a model as `mpdiag diagnose` does."""
    return mpdiag.diagnose(loaded, data).as_json()
