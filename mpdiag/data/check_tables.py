"""What a check found, as tables for the terminal."""

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from mpdiag.data.check import CheckResult, ClassCount, ProblemGroup, classes_by_frequency
from mpdiag.data.registry import KNOWN_DATASETS


def check_tables(checked: CheckResult) -> Iterator[RenderableType]:
    """A heading, errors and warnings with their first examples, and counts by class and size."""
    if checked.dataset is not None:
        yield _heading(checked)
    for title, style, findings in (
        ("Errors: training or evaluation stops here", "red", checked.errors),
        ("Warnings: no harm, but worth a look", "yellow", checked.warnings),
    ):
        if findings:
            yield _findings(title, style, findings)
    if not checked.errors and not checked.warnings:
        yield "[green]Nothing is wrong with it.[/]\n"
    if checked.images:
        yield _counts(checked)


def _heading(checked: CheckResult) -> str:
    data = checked.dataset
    assert data is not None
    split = data.split if data.name in KNOWN_DATASETS else ""
    name = " ".join(filter(None, (data.name, split, data.task)))
    read = "" if checked.images == len(data) else f", the first {checked.images:,} of them read"
    return (
        f"[bold]{escape(name)}[/]: {len(data):,} images{read}, {len(data.classes)} classes\n"
        f"annotations  {escape(str(data.annotations.path))}\n"
        f"images       {escape(str(data.image_root))}\n"
    )


def _findings(title: str, style: str, findings: dict[str, ProblemGroup]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style=style)
    table.add_column("count", justify="right", style=style)
    table.add_column("what, and the first examples", overflow="fold")
    for kind, finding in findings.items():
        examples = "\n".join(finding.examples)
        table.add_row(f"{finding.count:,}", f"[bold]{escape(kind)}[/]\n{escape(examples)}")
    return table


def _counts(checked: CheckResult) -> Table:
    title = "Objects by class and by COCO's sizes"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("class")
    for name in ("images", "objects", "small", "medium", "large", "crowds"):
        table.add_column(name, justify="right")
    found = classes_by_frequency(checked)
    for info, count in found:
        table.add_row(escape(info.name), *_cells(count))
    total = sum((count for _, count in found), ClassCount())
    total.images = checked.images
    table.add_section()
    table.add_row("all", *_cells(total), style="bold")
    return table


def _cells(count: ClassCount) -> list[str]:
    numbers = (count.images, count.objects, count.small, count.medium, count.large, count.crowds)
    return [f"{number:,}" for number in numbers]
