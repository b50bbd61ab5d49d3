import json

import pytest
from plotly.io import from_json

KEYS = ("miou_l", "miou_l_empty0", "miou_l_empty1", "miou_l_matched")


def traces(page):
    figure = from_json(page.get("plotly_chart")[0].proto.spec)
    return {trace.name: list(trace.y) for trace in figure.data if trace.showlegend}


def areas(page):
    figure = from_json(page.get("plotly_chart")[0].proto.spec)
    return [trace for trace in figure.data if trace.fill]


def layers(run):
    return json.loads((run / "summary.json").read_text())["layers"]


def test_the_curves_of_all_runs_stand_beside_the_papers(make_run, open_page, tmp_path):
    runs = [make_run(tmp_path / "one", seed=1), make_run(tmp_path / "two", part="piloted")]
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


def test_the_papers_figures_can_be_switched_off(make_run, open_page, tmp_path):
    page = open_page(make_run(tmp_path / "one"))
    page.toggle(key="widget of paper").set_value(False).run()
    assert list(traces(page)) == ["one, matching part"]
    assert page.dataframe[0].value["Model"].tolist() == ["one, matching part"] * 2
    assert page.query_params == {"paper": "0"}


def test_the_intervals_can_be_switched_off(make_run, open_page, tmp_path):
    page = open_page(make_run(tmp_path / "one"), bands=0)
    assert not areas(page)
    page.toggle(key="widget of bands").set_value(True).run()
    assert len(areas(page)) == 2
    assert not page.query_params


@pytest.mark.parametrize("key", KEYS)
def test_the_convention_for_empty_pairs_moves_the_curve(make_run, open_page, tmp_path, key):
    run = make_run(tmp_path / "one")
    page = open_page(run)
    page.selectbox(key="widget of empty").set_value(key).run()
    assert traces(page)["one, matching part"] == pytest.approx([100 * x[key] for x in layers(run)])
    assert len(areas(page)) == (2 if key == "miou_l" else 1)
    assert open_page(run, empty=key).dataframe[0].value.equals(page.dataframe[0].value)


def test_the_facts_are_those_of_the_chosen_run(make_run, open_page, tmp_path):
    runs = [make_run(tmp_path / name, images=n) for name, n in (("one", 4), ("two", 3))]
    page = open_page(*runs)
    facts = page.table[0].value
    assert r"4 with 6 objects" in facts.loc["Images"].iloc[0]
    page.selectbox(key="widget of run").set_value("two-matching-part").run()
    assert r"3 with 3 objects" in page.table[0].value.loc["Images"].iloc[0]


def test_a_run_of_no_images_is_ordinary(make_run, open_page, tmp_path):
    page = open_page(make_run(tmp_path / "one", images=0))
    assert "0 with 0 objects" in page.table[0].value.loc["Images"].iloc[0]
    assert not areas(page)
