"""A table of the recipes and the paper's results for the terminal."""

import re
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from mpdiag.config import BackboneConfig, DataConfig, PaperResult, Recipe, ScheduleConfig
from reports.paper import UNAVAILABLE_TABLES, published_results, rows_without_recipe

WIDTH = 100

_BACKBONES = {"swin_large": "Swin-L", "tf_efficientnet_lite0": "EffNet"}
_DATASETS = {"coco": "COCO", "ade20k": "ADE20K", "cityscapes": "Cityscapes"}
_SHOWN = {"PQ": "PQ", "AP": "AP", "mIoU": "mIoU", "mIoU_pan": "mIoU"}


def recipe_table(recipes: Sequence[Recipe]) -> Table:
    """Return name, purpose, model, data and schedule of the recipes, and the paper's results."""
    references = [reference for recipe in recipes for reference in recipe.paper]
    others = dict.fromkeys(str(row["method"]) for row in rows_without_recipe(references))
    table = Table(
        width=WIDTH,
        box=None,
        padding=(0, 3, 0, 0),
        pad_edge=False,
        caption=f"The paper's rows of {', '.join(others)} have no recipe.",
        caption_justify="left",
    )
    for title, width in (("recipe", 48), ("model, data, schedule", 27), ("in the paper", 19)):
        table.add_column(title, width=width)
    for recipe in recipes:
        config = recipe.config
        table.add_row(
            _two_lines(recipe.name, recipe.description, "bold"),
            _two_lines(
                _model_and_data(config.model.backbone, config.data), _schedule(config.schedule)
            ),
            _two_lines(_results(recipe.paper), _tables(recipe.paper)),
        )
    return table


def _two_lines(first: str, second: str, style: str = "") -> Text:
    return Text.assemble((first, style), "\n", (second, "dim"))


def _model_and_data(backbone: BackboneConfig, data: DataConfig) -> str:
    model = re.sub(r"^resnet", "R", backbone.name.split(".")[0])
    model = _BACKBONES.get(model, model)
    return f"{model}, {_DATASETS.get(data.dataset, data.dataset)} {data.task}"


def _schedule(schedule: ScheduleConfig) -> str:
    milestones = f"{len(schedule.milestones)} milestones"
    policy = "polynomial" if schedule.policy == "poly" else milestones
    if schedule.epochs is not None:
        return f"{schedule.epochs:g} epochs, {policy}"
    return f"{schedule.iterations:,} steps, {policy}"


def _results(references: Sequence[PaperResult]) -> str:
    results = {metric: value for x in references for metric, value in published_results(x).items()}
    return ", ".join(
        f"{_SHOWN[metric]} {'unknown' if value is None else f'{value:.1f}'}"
        for metric, value in results.items()
        if metric in _SHOWN
    )


def _tables(references: Sequence[PaperResult]) -> str:
    if any(reference.table in UNAVAILABLE_TABLES for reference in references):
        return "not available"
    numbers = sorted({reference.table.removeprefix("table")[0] for reference in references})
    return f"Table{'s' * (len(numbers) > 1)} {', '.join(numbers)}" if numbers else ""
