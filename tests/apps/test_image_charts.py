"""Figures of one image."""

import numpy as np
import pandas as pd
import pytest

from apps import image_charts


def test_heatmap_has_each_value_at_its_query_and_layer():
    queries = pd.DataFrame(
        [(3, 0, None), (3, 1, 0.25), (5, 0, None), (5, 1, 1.0)],
        columns=["query", "layer", "iou_prev"],
    )
    chart = image_charts.query_heatmap(queries, "iou_prev", query=5, layer=1)
    heatmap, points = chart.data
    assert list(heatmap.x) == ["3", "5"]
    assert list(heatmap.y) == [0, 1]
    np.testing.assert_array_equal(np.array(heatmap.z, dtype=float), [[np.nan] * 2, [25, 100]])
    cells = [("3", 0), ("5", 0), ("3", 1), ("5", 1)]
    assert list(zip(points.x, points.y, strict=True)) == cells
    assert list(points.customdata) == ["M⁰: none", "M⁰: none", "M¹: 25.0%", "M¹: 100.0%"]
    # On an axis of categories, positions count from 0.
    assert chart.layout.xaxis.type == "category"
    (frame,) = chart.layout.shapes
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (0.5, 1.5, 0.5, 1.5)


def test_matching_follows_each_gt_through_its_queries():
    targets = pd.DataFrame(
        {"gt": [0, 1], "label": [0, 0], "matched_query": [[4, 7, 7], [-1, 4, 2]]}
    )
    chart = image_charts.matching_chart(targets, ["<b>cat", "%{x}"], highlighted=1)
    row_of = dict(zip(chart.layout.yaxis.ticktext, chart.layout.yaxis.tickvals, strict=True))
    assert len(set(row_of.values())) == 3
    first, second = chart.data
    assert list(first.y) == [row_of["4"], row_of["7"], row_of["7"]]
    assert list(second.y) == [None, row_of["4"], row_of["2"]]
    assert second.line.width > first.line.width
    assert second.customdata[1] == ["GT 1 %{x}", 4, "M¹"]
    assert "%{x}" not in second.hovertemplate
    assert {note.text for note in chart.layout.annotations} == {"GT 0 &lt;b&gt;cat", "GT 1 %{x}"}


def test_matching_shortens_long_names_except_in_its_hover_texts():
    targets = pd.DataFrame({"gt": [0], "label": [0], "matched_query": [[4, 7]]})
    name = "<i>" + "x" * 30
    chart = image_charts.matching_chart(targets, [name])
    assert chart.layout.annotations[0].text == "GT 0 &lt;i&gt;" + "x" * 12 + "…"
    assert chart.data[0].customdata[0][0] == "GT 0 &lt;i&gt;" + "x" * 30


@pytest.mark.parametrize("depth", [1, 10, 25])
@pytest.mark.parametrize("name", ["cat", "x" * 40])
def test_names_beside_the_matching_fit_a_narrow_figure(depth, name):
    targets = pd.DataFrame({"gt": [12], "label": [0], "matched_query": [[4] * depth]})
    chart = image_charts.matching_chart(targets, [name])
    low, high = chart.layout.xaxis.range
    pixels = 640 * -low / (high - low) - 10
    assert pixels / len(chart.layout.annotations[0].text) >= 6


def test_matching_shows_a_limited_number_of_gt():
    count = image_charts.MAX_GT + 5
    targets = pd.DataFrame({"gt": range(count), "matched_query": [[k, k] for k in range(count)]})
    chart = image_charts.matching_chart(targets, ["a"] * count)
    assert len(chart.data) == image_charts.MAX_GT
    assert image_charts.describe_limit(count) == " Only 40 of 45 GT are shown."
    assert image_charts.describe_limit(40) == ""


@pytest.mark.parametrize("selected", [3, 41, 60, -1])
def test_selected_gt_is_shown_also_if_it_is_late(selected):
    gts = [*range(39), 60, 39, 40, 41, 42]
    targets = pd.DataFrame({"gt": gts, "matched_query": [[k, k] for k in gts]})
    shown = image_charts.first_gt(targets, selected)["gt"].tolist()
    assert shown == ([*gts[:39], 41] if selected == 41 else gts[:40])
    chart = image_charts.matching_chart(targets, [f"class {k}" for k in gts], selected)
    names = [trace.customdata[0][0] for trace in chart.data]
    assert names == [f"GT {k} class {k}" for k in shown]
    assert [trace.line.width == 9 for trace in chart.data] == [k == selected for k in shown]
