"""Tables of a data set check for the terminal."""

from collections.abc import Iterator
from dataclasses import astuple, fields

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from mpdiag.data.check import CheckResult, ClassCount, ProblemGroup, classes_by_frequency
from mpdiag.data.registry import KNOWN_DATASETS
from mpdiag.printable import printable


def check_tables(result: CheckResult) -> Iterator[RenderableType]:
    """Yield a heading, errors and warnings with their first examples, and counts by class."""
    if result.dataset is not None:
        yield _heading(result)
    for title, style, groups in (
        ("Errors: training or evaluation would stop", "red", result.errors),
        ("Warnings: suspicious but harmless", "yellow", result.warnings),
    ):
        if groups:
            yield _problem_table(title, style, groups)
    if not result.errors and not result.warnings:
        yield "[green]No problems found.[/]\n"
    if result.images:
        yield _count_table(result)


def _heading(result: CheckResult) -> str:
    data = result.dataset
    assert data is not None
    split = data.split if data.name in KNOWN_DATASETS else ""
    name = " ".join(filter(None, (data.name, split, data.task)))
    read = "" if result.images == len(data) else f" (read: first {result.images:,})"
    return (
        f"[bold]{escape(name)}[/]: {len(data):,} images{read}, {len(data.classes)} classes\n"
        f"annotations  {escape(str(data.annotations.path))}\n"
        f"images       {escape(str(data.image_root))}\n"
    )


def _problem_table(title: str, style: str, groups: dict[str, ProblemGroup]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style=style)
    table.add_column("count", justify="right", style=style)
    table.add_column("problem and first examples", overflow="fold")
    for kind, group in groups.items():
        examples = "\n".join(group.examples)
        table.add_row(f"{group.count:,}", f"[bold]{escape(kind)}[/]\n{escape(examples)}")
    return table


def _count_table(result: CheckResult) -> Table:
    title = "Objects by class and COCO size"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("class")
    for column in fields(ClassCount):
        table.add_column(column.name, justify="right")
    classes = classes_by_frequency(result)
    for info, count in classes:
        table.add_row(escape(printable(info.name, 80)), *_cells(count))
    total = sum((count for _, count in classes), ClassCount())
    total.images = result.images
    table.add_section()
    table.add_row("all", *_cells(total), style="bold")
    return table


def _cells(count: ClassCount) -> list[str]:
    return [f"{number:,}" for number in astuple(count)]
