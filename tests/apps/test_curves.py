import json

import pytest

from apps import curves
from apps.runs import open_all
from reports.table1 import Series


@pytest.fixture
def loaded(make_run, tmp_path):
    return open_all([str(make_run(tmp_path / "run", layers=4))])[0][0]


@pytest.mark.parametrize("key", curves.CONVENTIONS)
def test_a_runs_curves_are_those_of_its_summary(loaded, key):
    summary = json.loads((loaded.run.path / "summary.json").read_text())
    series = curves.of_run(loaded, key)
    assert series.name == "run, matching part"
    assert list(series.miou_l) == [layer[key] for layer in summary["layers"]]
    assert list(series.util) == [layer["util"] for layer in summary["layers"]]


def test_the_figure_shows_percent_and_leaves_the_unknown_out():
    ours = Series("a < b", "matching", "run", (0.5, None), (0.25, 1.0))
    paper = Series("theirs", "matching", "paper", (0.1, 0.2), (None, 1.0))
    traces = curves.figure([ours, paper]).data
    assert {trace.name: trace.line.dash for trace in traces} == {
        "a &lt; b": None,
        "theirs": "dash",
    }
    ours_miou_l, ours_util = (trace for trace in traces if trace.name != "theirs")
    assert list(ours_miou_l.y) == [50.0, None]
    assert list(ours_util.y) == [25.0, 100.0]
    assert list(ours_util.x) == [1, 2]
    assert not any(trace.connectgaps for trace in traces)
    assert [trace.name for trace in traces if trace.showlegend] == ["theirs", "a &lt; b"]


def test_runs_and_references_are_told_apart_without_colour():
    many = [Series(f"run {n}", "matching", "run", (0.5,), (0.5,)) for n in range(6)]
    traces = curves.figure([*many, *curves.of_paper()]).data
    looks = {(trace.marker.symbol, trace.line.dash) for trace in traces}
    assert len(looks) == 9


def test_the_table_pads_models_with_fewer_layers():
    short = Series("short", "matching", "run", (0.5,), (1.0,))
    long = Series("long", "matching", "run", (0.1, 0.2), (0.5, 1.0))
    table = curves.table([short, long])
    assert list(table.columns) == ["Model", "Metric", "1", "2"]
    assert table["1"].tolist() == [50.0, 100.0, 10.0, 50.0]
    assert table["2"].isna().tolist() == [True, True, False, False]


def test_the_papers_curves_keep_their_unknown_figures():
    first = curves.of_paper()[0]
    assert first.name == "Mask2Former, matching part (paper)"
    assert first.miou_l[:2] == (0.23, 0.503)
    assert first.miou_l[5] is None


def test_bands_are_the_runs_intervals_and_lie_around_its_curves(loaded):
    table = loaded.run.layers()
    bands = curves.bands_of(loaded, "miou_l")
    for layer in range(1, 5):
        row = table[table["layer"] == layer].iloc[0]
        assert bands.miou_l[0][layer - 1] == row["miou_l_low"] <= row["miou_l"]
        assert bands.util[1][layer - 1] == row["util_high"] >= row["util"]
    assert curves.bands_of(loaded, "miou_l_empty0").miou_l is None
    assert curves.bands_of(loaded, "miou_l_empty0").util == bands.util


def test_a_band_closes_around_the_known_layers_and_hides_with_its_curve():
    series = Series("a", "matching", "run", (0.5, None, 0.7), (0.2, 0.3, 1.0))
    bands = curves.Bands(((0.4, None, 0.6), (0.6, None, 0.8)), ((0.1,) * 3, (0.4,) * 3))
    areas = [trace for trace in curves.figure([series], [bands]).data if trace.fill == "toself"]
    assert [list(area.x) for area in areas] == [[1, 3, 3, 1], [1, 2, 3, 3, 2, 1]]
    assert list(areas[0].y) == [60, 80, 60, 40]
    assert {area.legendgroup for area in areas} == {"a"}
    assert not any(area.showlegend for area in areas)
