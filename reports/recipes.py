"""The recipes as a table for the terminal, with the paper's result beside each."""

import re
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from mpdiag.config import BackboneConfig, DataConfig, Published, Recipe, ScheduleConfig
from reports.paper import LOST, published, without_recipe

WIDTH = 100

_DATASETS = {"coco": "COCO", "ade20k": "ADE20K", "cityscapes": "Cityscapes"}
_SHOWN = {"PQ": "PQ", "AP": "AP", "mIoU": "mIoU", "mIoU_pan": "mIoU"}


def recipe_table(recipes: Sequence[Recipe]) -> Table:
    """Name and purpose of all our recipes, what they train on what, and the paper's figures."""
    everyone = [reference for recipe in recipes for reference in recipe.paper]
    others = dict.fromkeys(str(row["method"]) for row in without_recipe(everyone))
    table = Table(
        width=WIDTH,
        box=None,
        padding=(0, 3, 0, 0),
        pad_edge=False,
        caption=f"Not ours to reproduce: the paper's rows of {', '.join(others)}.",
        caption_justify="left",
    )
    for title, width in (("recipe", 48), ("model, data, schedule", 27), ("in the paper", 19)):
        table.add_column(title, width=width)
    for recipe in recipes:
        config = recipe.config
        table.add_row(
            _two_lines(recipe.name, recipe.about, "bold"),
            _two_lines(_trained(config.model.backbone, config.data), _length(config.schedule)),
            _two_lines(_results(recipe.paper), _places(recipe.paper)),
        )
    return table


def _two_lines(first: str, second: str, style: str = "") -> Text:
    return Text.assemble((first, style), "\n", (second, "dim"))


def _trained(backbone: BackboneConfig, data: DataConfig) -> str:
    model = re.sub(r"^resnet", "R", backbone.name.split(".")[0]).replace("swin_large", "Swin-L")
    return f"{model}, {_DATASETS.get(data.dataset, data.dataset)} {data.task}"


def _length(schedule: ScheduleConfig) -> str:
    decline = "polynomial" if schedule.decline == "poly" else f"{len(schedule.drops)} drops"
    if schedule.epochs is not None:
        return f"{schedule.epochs:g} epochs, {decline}"
    return f"{schedule.iterations:,} steps, {decline}"


def _results(references: Sequence[Published]) -> str:
    figures = {metric: value for x in references for metric, value in published(x).items()}
    return ", ".join(
        f"{_SHOWN[metric]} {'unknown' if value is None else f'{value:.1f}'}"
        for metric, value in figures.items()
        if metric in _SHOWN
    )


def _places(references: Sequence[Published]) -> str:
    if any(reference.table in LOST for reference in references):
        return "not in our copy"
    numbers = sorted({reference.table.removeprefix("table")[0] for reference in references})
    return f"Table{'s' * (len(numbers) > 1)} {', '.join(numbers)}" if numbers else ""
