"""Curves of per-layer metrics: their values, figure and table."""

import math
from types import MappingProxyType

import pytest

from apps import curves
from apps.curves import Curve
from apps.runs import open_runs
from mpdiag.store import LAYER_METRICS, LayerMetric, aggregates, layer_metrics, layers

RUN = {"metric": "miou_l", "is_paper": False, "intervals": {}}


@pytest.fixture(scope="module")
def loaded(shared_run):
    return open_runs([str(shared_run("run", layers=4))])[0][0]


def curve_of(loaded, name, **options):
    return curves.run_curves(loaded, [name], **options)[0]


@pytest.mark.parametrize("name", LAYER_METRICS)
def test_curves_of_a_run_match_its_rows(loaded, name):
    curve = curve_of(loaded, name)
    table = loaded.run.layer_metrics().set_index("layer")[name]
    assert curve.model == "run, matching part"
    assert list(curve.values) == list(range(LAYER_METRICS[name].first_layer, 5))
    expected = [table[layer] for layer in curve.values]
    assert list(curve.values.values()) == pytest.approx(expected, nan_ok=True)


def test_a_new_metric_appears_without_another_edit(make_run, tmp_path, monkeypatch):
    """The run was written before the metric was added: its values are computed from the rows."""
    metric = LayerMetric(
        "mean_score", "Mean score", "class score", value="score", higher_is_better=True
    )
    metrics = MappingProxyType({**LAYER_METRICS, metric.name: metric})
    for module in (curves, layer_metrics, layers):
        monkeypatch.setattr(module, "LAYER_METRICS", metrics)
    monkeypatch.setattr(aggregates, "IMAGE_METRICS_COLUMNS", {metric.name})
    monkeypatch.setitem(aggregates.AGGREGATES, "image_metrics", layer_metrics.image_metrics_sql())
    loaded = open_runs([str(make_run(tmp_path / "run", layers=4))])[0][0]
    curve = curve_of(loaded, "mean_score")
    expected = loaded.run.query(
        "SELECT avg(score) AS mean FROM queries GROUP BY layer ORDER BY layer"
    )
    assert list(curve.values.values()) == pytest.approx(expected["mean"].tolist())
    (title,) = curves.figure([curve]).layout.annotations
    assert title.text == "Mean score"
    assert curves.table([curve])["Metric"].tolist() == ["Mean score, %"]
    assert curves.describe(metric) == "**Mean score**: Class score. Higher is better."


def test_figure_shows_percent_and_leaves_unknown_values_out():
    run = Curve("a < b", values={1: 0.5, 2: math.nan}, **RUN)
    paper = Curve("paper", "miou_l", True, {1: 0.1, 2: 0.2}, {})
    util = Curve("a < b", "util", False, {0: 0.25, 1: 1.0}, {})
    traces = curves.figure([run, util, paper]).data
    assert [(trace.name, trace.line.dash) for trace in traces] == [
        ("paper", "dash"),
        ("a &lt; b", None),
        ("a &lt; b", None),
    ]
    assert [list(trace.y) for trace in traces] == [[10, 20], [50, None], [25, 100]]
    assert [list(trace.x) for trace in traces] == [[1, 2], [1, 2], [0, 1]]
    assert not any(trace.connectgaps for trace in traces)
    assert [trace.showlegend for trace in traces] == [True, True, False]


def test_a_cost_is_not_shown_in_percent():
    curve = Curve("a", "margin", False, {0: 1.5}, {})
    assert list(curves.figure([curve]).data[0].y) == [1.5]
    assert curves.table([curve]).iloc[0].tolist() == ["a", "Match margin, cost", 1.5]


def test_models_are_distinguishable_without_color():
    runs = [Curve(f"run {n}", values={1: 0.5}, **RUN) for n in range(6)]
    traces = curves.figure([*runs, *curves.paper_curves(["miou_l"])]).data
    looks = {(trace.marker.symbol, trace.line.dash) for trace in traces}
    assert len(looks) == 9


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_any_number_of_metrics_has_subplots(loaded, count):
    metrics = list(LAYER_METRICS)[:count]
    chart = curves.figure(curves.run_curves(loaded, metrics))
    assert [title.text for title in chart.layout.annotations] == [
        LAYER_METRICS[name].label for name in metrics
    ]
    assert len({(trace.xaxis, trace.yaxis) for trace in chart.data}) == count


def test_table_has_no_value_for_layers_that_a_model_does_not_have():
    short = Curve("short", values={1: 0.5}, **RUN)
    long = Curve("long", values={1: 0.1, 2: 0.2}, **RUN)
    table = curves.table([short, long])
    assert list(table.columns) == ["Model", "Metric", "1", "2"]
    assert table["1"].tolist() == [50.0, 10.0]
    assert table["2"].isna().tolist() == [True, False]


def test_paper_curves_exist_for_the_metrics_of_table_1_only():
    first = curves.paper_curves(["miou_l", "util", "margin"])[0]
    assert first.model == "Mask2Former, matching part (paper)"
    assert (first.values[1], first.values[2]) == (0.23, 0.503)
    assert math.isnan(first.values[6])
    assert not curves.paper_curves(["margin"])


def test_intervals_contain_the_values(loaded):
    for name in curves.PAPER_METRICS:
        curve = curve_of(loaded, name, with_intervals=True)
        for layer, value in curve.values.items():
            low, high = curve.intervals[layer]
            assert low <= value <= high
        assert not curve_of(loaded, name).intervals


def test_a_band_skips_unknown_layers_and_is_hidden_with_its_curve():
    intervals = {1: (0.4, 0.6), 3: (0.6, 0.8)}
    curve = Curve("a", "miou_l", False, {1: 0.5, 2: math.nan, 3: 0.7}, intervals)
    band, line = curves.figure([curve]).data
    assert band.fill == "toself"
    assert list(band.x) == [1, 3, 3, 1]
    assert list(band.y) == [60, 80, 60, 40]
    assert band.legendgroup == line.legendgroup == "a"
    assert not band.showlegend


def test_default_metrics_are_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves.url_state, "multiselect", lambda *_, default, **__: default)
    assert curves.select_metrics(None) == ["miou_l", "util"]
    assert curves.select_metrics(None, ["empty_pairs", "miou_l"]) == ["miou_l"]
    assert curves.select_metrics(None, ["empty_pairs"]) == ["empty_pairs"]
