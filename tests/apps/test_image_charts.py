import numpy as np
import pandas as pd

from apps import image_charts


def test_the_heat_map_shows_each_value_where_its_query_and_layer_are():
    queries = pd.DataFrame(
        [(3, 0, None), (3, 1, 0.25), (5, 0, None), (5, 1, 1.0)],
        columns=["query", "layer", "iou_prev"],
    )
    chart = image_charts.heat_map(queries, "iou_prev", query=5, layer=1)
    heat, points = chart.data
    assert list(heat.x) == [3, 5]
    assert list(heat.y) == [0, 1]
    np.testing.assert_array_equal(np.array(heat.z, dtype=float), [[np.nan] * 2, [25, 100]])
    assert list(zip(points.x, points.y, strict=True)) == [(3, 0), (5, 0), (3, 1), (5, 1)]
    assert [told[1] for told in points.customdata] == ["none", "none", "25.0 %", "100.0 %"]
    (frame,) = chart.layout.shapes
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (4.5, 5.5, 0.5, 1.5)


def test_the_flow_follows_each_gt_over_its_queries():
    targets = pd.DataFrame(
        {"gt": [0, 1], "label": [0, 0], "matched_query": [[4, 7, 7], [-1, 4, 2]]}
    )
    chart = image_charts.flow(targets, ["<b>cat", "dog"], marked=1)
    row_of = dict(zip(chart.layout.yaxis.ticktext, chart.layout.yaxis.tickvals, strict=True))
    assert len(set(row_of.values())) == 3
    first, second = chart.data
    assert list(first.y) == [row_of["4"], row_of["7"], row_of["7"]]
    assert list(second.y) == [None, row_of["4"], row_of["2"]]
    assert second.line.width > first.line.width
    assert {note.text for note in chart.layout.annotations} == {"GT 0 &lt;b&gt;cat", "GT 1 dog"}


def test_the_flow_is_bounded():
    many = image_charts.MOST_FLOWS + 5
    targets = pd.DataFrame({"gt": range(many), "matched_query": [[k, k] for k in range(many)]})
    assert len(image_charts.flow(targets, ["a"] * many).data) == image_charts.MOST_FLOWS
