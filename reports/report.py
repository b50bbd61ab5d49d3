"""Write the report of some runs, or all about one of them, into a directory."""

from collections.abc import Sequence
from pathlib import Path

from mpdiag import __version__
from mpdiag.errors import ConfigError, RunError
from mpdiag.store import Thresholds
from reports.document import FORMATS, today, write_document
from reports.figures import draw_curves
from reports.findings import build_findings
from reports.render import Report, html, latex, long_csv, markdown
from reports.run_facts import describe
from reports.table1 import build_table, open_runs, run_labels


def write_report(
    runs: Sequence[Path],
    output: Path,
    formats: Sequence[str] = FORMATS,
    thresholds: Thresholds | None = None,
) -> list[Path]:
    """Write report.md, report.html, table1.tex, table1.csv and curves.svg and .png to `output`.

    Gives back what was written, the tables first. The content depends on the runs alone, but for
    the date, which SOURCE_DATE_EPOCH fixes. `thresholds` are those by which transitions are named,
    if not the usual ones. Raises RunError for a run that can't be opened or an
    `output` that is a file, and ConfigError for an unknown format, before anything is written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        given = unknown[0] if unknown else "none"
        raise ConfigError(f"Unknown report format {given!r}: choose from {', '.join(FORMATS)}")
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise RunError(f"{output} is a file: give a directory for the report")
    opened = open_runs(runs, thresholds)
    table = build_table(opened)
    facts = tuple(describe(run, name) for run, name in zip(opened, run_labels(opened), strict=True))
    report = Report(today(), __version__, table, facts)
    svg = draw_curves(table, "svg")
    contents = {
        "report.md": lambda: markdown(report, "curves.png"),
        "report.html": lambda: html(report, svg),
        "table1.tex": lambda: latex(report),
        "table1.csv": lambda: long_csv(opened, table),
    }
    chosen = [name for name in contents if name.rpartition(".")[2] in formats]
    files = {name: contents[name]().encode() for name in chosen}
    files |= {"curves.svg": svg, "curves.png": draw_curves(table, "png")}
    output.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (output / name).write_bytes(data)
    return [output / name for name in files]


def write_findings(
    runs: Sequence[Path], output: Path, thresholds: Thresholds | None = None
) -> list[Path]:
    """Write findings.html about one run to `output`: one page that needs no other file.

    Raises RunError for a run that can't be opened, and ConfigError for several.
    """
    if len(runs) > 1:
        raise ConfigError(f"--html is about one run, and {len(runs)} were given: give one of them")
    (run,) = open_runs(runs, thresholds)
    return write_document(build_findings(run), Path(output), ("html",))
