"""The page Transitions against the run's own counts, and its examples against the rows."""

import os
import shutil
from collections import Counter

import pyarrow.parquet as pq
import pytest
from plotly.io import from_json

from mpdiag.store import Run
from mpdiag.store.transitions import TRANSITIONS, classified


@pytest.fixture
def run(make_run, tmp_path):
    return make_run(tmp_path / "one", images=8, seed=3, shards=2)


def bars(page):
    figure = from_json(page.get("plotly_chart")[0].proto.spec)
    return {trace.name: dict(zip(trace.x, trace.y, strict=True)) for trace in figure.data}


def of_kind(run, kind, layer):
    """(image, query) of all transitions of a class into a layer."""
    sql = f"SELECT image_id, query FROM ({classified()}) WHERE kind = ? AND layer = ?"
    return set(Run.open(run).query(sql, [kind, layer]).itertuples(index=False, name=None))


def links(page):
    return [link.proto.query_string for link in page.get("page_link")]


def shown(page):
    """(image, query) of the examples."""
    pairs = [dict(part.split("=") for part in link.split("&")) for link in links(page)]
    return {(int(pair["image"]), int(pair["query"])) for pair in pairs}


def test_the_shares_of_all_classes_in_all_layers(run, open_page):
    page = open_page(run, page="transitions", kept=1)
    found = bars(page)
    assert list(found) == list(TRANSITIONS)
    for row in Run.open(run).transitions().itertuples():
        assert found[row.transition][row.layer] == pytest.approx(100 * row.share)
    share, gain = (frame.value.set_index("Transition") for frame in page.dataframe)
    assert share["3"].sum() == pytest.approx(100)
    expected = Run.open(run).transitions().set_index(["layer", "transition"])["util_gain"]
    assert gain.loc["switched", "2"] == pytest.approx(100 * expected[2, "switched"])


def test_what_stays_the_same_is_left_out_at_first(run, open_page):
    page = open_page(run, page="transitions")
    assert list(bars(page)) == list(TRANSITIONS)[1:]
    page.toggle(key="widget of kept").set_value(True).run()
    assert list(bars(page)) == list(TRANSITIONS)
    assert page.query_params == {"kept": "1"}


@pytest.mark.parametrize("kind", TRANSITIONS)
def test_examples_are_of_the_class_and_layer(run, open_page, kind):
    page = open_page(run, page="transitions", transition=kind, layer=2)
    every = of_kind(run, kind, 2)
    assert shown(page) <= every
    assert len(shown(page)) == min(6, len({image for image, _ in every}))
    assert len(page.get("image")) == len(shown(page))
    if not every:
        assert "none of this kind" in page.info[0].value


def test_the_commonest_layer_of_a_class_comes_first(run, open_page):
    page = open_page(run, page="transitions")
    page.selectbox(key="widget of transition").set_value("vanished").run()
    counts = [len(of_kind(run, "vanished", layer)) for layer in range(1, 10)]
    assert page.selectbox(key="widget of layer").value == 1 + counts.index(max(counts))
    page.selectbox(key="widget of layer").set_value(4).run()
    assert shown(page) <= of_kind(run, "vanished", 4)


def test_queries_whose_masks_were_kept_come_first(run, open_page):
    every = of_kind(run, "drifted", 3)
    commonest, _ = Counter(query for _, query in every).most_common(1)[0]
    kept = {(image, query) for image, query in every if query == commonest}
    for file in (run / "masks").glob("*.parquet"):
        table = pq.read_table(file)
        rows = [
            row for row in table.to_pylist() if row["kind"] == "gt" or row["index"] == commonest
        ]
        pq.write_table(table.from_pylist(rows, table.schema), file)
    page = open_page(run, page="transitions", transition="drifted", layer=3)
    assert shown(page) >= kept
    assert len(page.get("image")) == len(kept)
    shutil.rmtree(run / "masks")
    os.utime(run / "run.json", (1, 1))  # as if it had been analysed anew
    page = open_page(run, page="transitions", transition="drifted", layer=3)
    assert shown(page) and not page.get("image")
    assert any("--save-masks" in caption.value for caption in page.caption)


@pytest.mark.parametrize(
    "state", [{"transition": "<b>"}, {"layer": 0}, {"layer": 10, "transition": "../kept"}]
)
def test_what_is_no_option_shows_the_default(run, open_page, state):
    page = open_page(run, page="transitions", **state)
    assert page.selectbox(key="widget of transition").value == "switched"
    assert 1 <= page.selectbox(key="widget of layer").value <= 9


def test_a_run_of_version_1_says_that_it_is_too_old(run, open_page):
    header = (run / "run.json").read_text()
    (run / "run.json").write_text(header.replace('"schema_version": 3', '"schema_version": 1'))
    page = open_page(run, page="transitions")
    assert "analyse it again" in page.error[0].value


def test_a_file_name_is_no_markup_and_a_missing_picture_no_error(run, open_page):
    for file in (run / "images").glob("*.parquet"):
        table = pq.read_table(file)
        rows = [{**row, "file_name": "[x](http://y) <b>"} for row in table.to_pylist()]
        pq.write_table(table.from_pylist(rows, table.schema), file)
    shutil.rmtree(run / "thumbnails")
    page = open_page(run, page="transitions", transition="drifted")
    assert page.get("page_link")[0].proto.label.startswith(r"\[x\]\(http\:\/\/y\) \<b\>")
    assert len(page.get("image")) == len(shown(page))
