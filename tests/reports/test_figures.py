import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib.image
import pytest

from reports import figures
from reports.figures import draw_curves
from reports.palette import RUN_COLORS
from reports.table1 import Table1, Table1Row

SVG = "{http://www.w3.org/2000/svg}"


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


NAMES = {  # and what the legend shows
    "$a_b^c$": "$a_b^c$",
    "$": "$",
    "_hidden": "_hidden",
    r"\frac{": r"\frac{",
    "<script>&\"'": "<script>&\"'",
    "空": "空",
    "W" * 300: "…",
    "": "…",
    " ": "…",
    "a\nb": "a b",
}


def test_the_legend_has_the_names_of_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(figures._STYLE, "svg.fonttype", "none")  # letters, not their outlines
    names = [*NAMES, *"abcdefghijkl"]
    page = ET.fromstring(draw_curves(table(*names), "svg"))
    texts = ["".join(text.itertext()).strip() for text in page.iter(f"{SVG}text")]
    expected = [f"{NAMES.get(name, name)} (matching part)" for name in names]
    assert [text for text in texts if text.endswith("(matching part)")] == expected


@pytest.mark.parametrize("layers", [0, 1, 3, 24])
def test_number_of_layers(layers: int) -> None:
    page = ET.fromstring(draw_curves(table("a", layers=layers), "svg"))
    styles = [marker.get("style", "") for marker in page.iter(f"{SVG}use")]
    # One in each of the two panels, and one in the legend.
    assert sum(RUN_COLORS[0].lower() in style for style in styles) == 2 * layers + 1


def test_unknown_values_leave_gaps() -> None:
    gap = Table1Row("published", "piloted", "paper", (0.2, None, 0.4), (0.2, None, 0.4))
    known = Table1Row("published", "piloted", "paper", (0.2, 0.3, 0.4), (0.2, 0.3, 0.4))
    # One dashed line in the legend, and one in each panel if adjacent points are known.
    assert dashed_lines(Table1((gap,), 3)) == 1
    assert dashed_lines(Table1((known,), 3)) == 3


def dashed_lines(table: Table1) -> int:
    paths = ET.fromstring(draw_curves(table, "svg")).iter(f"{SVG}path")
    return sum("dasharray" in path.get("style", "") and "L" in path.get("d", "") for path in paths)
