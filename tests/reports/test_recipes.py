"""The table of recipes, compared with the paper."""

from io import StringIO

import pytest
from rich.console import Console

from mpdiag.config import (
    BackboneConfig,
    ModelConfig,
    PaperResult,
    Recipe,
    ScheduleConfig,
    TrainConfig,
)
from reports.paper import UNAVAILABLE_TABLES, published_results, rows_without_recipe
from reports.recipes import WIDTH, recipe_table
from trainers.recipe import recipes

RECIPES = recipes()
REFERENCES = [reference for recipe in RECIPES for reference in recipe.paper]


def lines(some: list[Recipe]) -> list[str]:
    console = Console(width=WIDTH, record=True, file=StringIO())
    console.print(recipe_table(some))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_rows_of_tables_2_to_7_without_recipe() -> None:
    rest = [(row["method"], row["backbone"]) for row in rows_without_recipe(REFERENCES)]
    assert rest == [
        ("MaskFormer", "R50"),
        ("Panoptic-DeepLab", "SWideRNet"),
        ("MaskFormer", "Swin-L (IN-22K)"),
        ("FaPN-MaskFormer", "Swin-L (IN-22K)"),
    ]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_published_results_of_recipes_agree(recipe: Recipe) -> None:
    found: dict[str, float | None] = {}
    for reference in recipe.paper:
        for metric, value in published_results(reference).items():
            assert found.setdefault(metric, value) == value
            assert (value is None) == (reference.table in UNAVAILABLE_TABLES)
    published_run = not recipe.name.startswith(("synthetic", "photos", "appendix"))
    assert bool(found) == published_run


def test_table_of_100_columns() -> None:
    text = lines(RECIPES)
    assert max(map(len, text)) <= WIDTH
    assert len(text) == 2 * len(RECIPES) + 2  # no cell needs a third line
    assert text[-1].endswith("MaskFormer, Panoptic-DeepLab, FaPN-MaskFormer have no recipe.")
    for name, data, length, result, place in ROWS:
        row = next(k for k, line in enumerate(text) if line.split()[0] == name)
        assert data in text[row] and text[row].endswith(result)
        assert length in text[row + 1] and text[row + 1].endswith(place)


ROWS = [
    line.split(" | ")
    for line in """
table2-mask2former-r50-semantic | R50, ADE20K sem | 160,000 steps, poly | mIoU 47.2 | Tables 2, 3
table2-mp-former-swin-l-panoptic | Swin-L, ADE20K pan | 160,000 | PQ 49.4, mIoU 56.0 | Table 2
table3-mp-former-r101-coco-panoptic | R101, COCO pan | 265,500 | PQ 52.5, mIoU 62.0 | Table 3
table4-3-label-noise | R50, COCO instance | 88,500 steps, 2 milestones | AP 39.6 | Tables 4, 5, 6
table4-5-all-layers-50ep | R50, COCO instance | 368,750 steps, 2 milestones | AP 44.8 | Table 4
table7-fixed-matching | R50, COCO instance | 88,500 steps, 2 milestones | AP 36.0 | Table 7
cityscapes-mask2former-r50-semantic | R50, Cityscapes | 90,000 | mIoU unknown | not available
""".strip().splitlines()
]


def test_user_recipe() -> None:
    config = TrainConfig(
        model=ModelConfig(backbone=BackboneConfig(name="convnext_tiny")),
        schedule=ScheduleConfig(epochs=2.5),
    )
    own = Recipe(name="own", description="[not] markup.", config=config)
    text = lines([own, *RECIPES])
    assert "convnext_tiny, synthetic" in text[1] and text[1].startswith("own")
    assert "2.5 epochs" in " ".join(text) and "[not] markup." in text[2]


def test_unknown_references() -> None:
    for reference in (
        PaperResult(table="table8", results=("AP",)),
        PaperResult(table="table2_ade20k_val", row={"method": "MP-Former"}, results=("PQ",)),
        PaperResult(table="table4_components_coco_r50_ap", row={"row": 1}, results=("PQ",)),
    ):
        with pytest.raises(KeyError):
            published_results(reference)
