import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib.image
import pytest

from reports.figures import draw_curves
from reports.table1 import Table1, Table1Row


def table(*names: str, layers: int = 9) -> Table1:
    values = tuple(0.1 * (k % 10) for k in range(layers))
    series = [Table1Row(name, "matching", "run", values, values) for name in names]
    unknown = (0.2, None, 0.4)
    series.append(Table1Row("published", "piloted", "paper", unknown, unknown))
    return Table1(tuple(series), max(layers, 3))


def test_svg_is_deterministic() -> None:
    assert draw_curves(table("a"), "svg") == draw_curves(table("a"), "svg")
    assert draw_curves(table("a"), "svg") != draw_curves(table("b"), "svg")


def test_size_of_the_png(tmp_path: Path) -> None:
    (tmp_path / "curves.png").write_bytes(draw_curves(table("a", "b"), "png"))
    height, width, _ = matplotlib.image.imread(tmp_path / "curves.png").shape
    assert width == 9 * 160
    assert 500 < height < 900


@pytest.mark.parametrize(
    "name",
    ["$a_b^c$", "$", "_hidden", r"\frac{", "<script>&\"'", "空", "W" * 300, "", " ", "a\nb"],
)
def test_names_with_special_characters(name: str) -> None:
    ET.fromstring(draw_curves(table(name, name), "svg"))


@pytest.mark.parametrize("layers", [0, 1, 3, 24])
def test_number_of_layers(layers: int) -> None:
    ET.fromstring(draw_curves(table("a", layers=layers), "svg"))


def test_many_runs() -> None:
    ET.fromstring(draw_curves(table(*"abcdefghijkl"), "svg"))


def test_unknown_values_leave_gaps() -> None:
    gap = Table1Row("published", "piloted", "paper", (0.2, None, 0.4), (0.2, None, 0.4))
    known = Table1Row("published", "piloted", "paper", (0.2, 0.3, 0.4), (0.2, 0.3, 0.4))
    # One dashed line in the legend, and one in each panel if adjacent points are known.
    assert dashed_lines(Table1((gap,), 3)) == 1
    assert dashed_lines(Table1((known,), 3)) == 3


def dashed_lines(table: Table1) -> int:
    paths = ET.fromstring(draw_curves(table, "svg")).iter("{http://www.w3.org/2000/svg}path")
    return sum("dasharray" in path.get("style", "") and "L" in path.get("d", "") for path in paths)
