"""The Overview page."""

import json

import pytest
from plotly.io import from_json

from mpdiag.store import LAYER_METRICS


def traces(page):
    figure = from_json(page.get("plotly_chart")[0].proto.spec)
    return {trace.name: list(trace.y) for trace in figure.data if trace.showlegend}


def areas(page):
    figure = from_json(page.get("plotly_chart")[0].proto.spec)
    return [trace for trace in figure.data if trace.fill]


def layers(run):
    return json.loads((run / "summary.json").read_text())["layers"]


def test_curves_of_all_runs_and_of_the_paper(shared_run, open_page):
    runs = [shared_run("one", seed=1), shared_run("two", part="piloted")]
    page = open_page(*runs)
    shown = traces(page)
    assert list(shown)[:3] == [
        "Mask2Former, matching part (paper)",
        "MP training, MP part (paper)",
        "Multi-layer MP, MP part (paper)",
    ]
    expected = [100 * layer["miou_l"] for layer in layers(runs[0])]
    assert shown["one, matching part"] == pytest.approx(expected)
    assert "two, MP part" in shown
    assert len(page.dataframe[0].value) == 2 * 5
    assert len(areas(page)) == 2 * 2


def test_paper_curves_can_be_hidden(shared_run, open_page):
    page = open_page(shared_run("one"))
    page.toggle(key="widget-paper").set_value(False).run()
    assert list(traces(page)) == ["one, matching part"]
    assert page.dataframe[0].value["Model"].tolist() == ["one, matching part"] * 2
    assert page.query_params == {"paper": "0"}


def test_intervals_can_be_hidden(shared_run, open_page):
    page = open_page(shared_run("one"), bands=0)
    assert not areas(page)
    page.toggle(key="widget-bands").set_value(True).run()
    assert len(areas(page)) == 2
    assert not page.query_params


@pytest.mark.parametrize("metric", ["miou_l_empty1", "best_iou"])
def test_metrics_can_be_selected(shared_run, open_page, metric):
    run = shared_run("one")
    page = open_page(run)
    page.multiselect(key="widget-metrics").set_value([metric]).run()
    assert page.query_params == {"metrics": metric}
    assert list(traces(page)) == ["one, matching part"]
    last_layers = traces(page)["one, matching part"][-9:]
    assert last_layers == pytest.approx([100 * layer[metric] for layer in layers(run)])
    assert f"**{LAYER_METRICS[metric].label}**" in page.caption[1].value
    assert open_page(run, metrics=metric).dataframe[0].value.equals(page.dataframe[0].value)
    page.multiselect(key="widget-metrics").set_value([]).run()
    assert page.multiselect(key="widget-metrics").value == ["miou_l", "util"]


def test_every_metric_is_offered_with_its_meaning(shared_run, open_page):
    page = open_page(shared_run("one"), metrics="~".join(LAYER_METRICS))
    box = page.multiselect(key="widget-metrics")
    assert box.options == [metric.label for metric in LAYER_METRICS.values()]
    assert "Higher is better." in box.help and "Lower is better." in box.help
    assert page.dataframe[0].value["Model"].tolist().count("one, matching part") == len(box.options)


def test_facts_of_the_selected_run(shared_run, open_page):
    runs = [shared_run(name, images=n) for name, n in (("one", 4), ("two", 3))]
    page = open_page(*runs)
    facts = page.table[0].value
    assert r"4 with 6 objects" in facts.loc["Images"].iloc[0]
    page.selectbox(key="widget-run").set_value("two-matching-part").run()
    assert r"3 with 3 objects" in page.table[0].value.loc["Images"].iloc[0]


def test_run_without_images(shared_run, open_page):
    page = open_page(shared_run("one", images=0))
    assert "0 with 0 objects" in page.table[0].value.loc["Images"].iloc[0]
    assert not areas(page)
