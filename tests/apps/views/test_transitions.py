"""The Transitions page against `Run.transitions`, and its examples against the rows."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from plotly.io import from_json

from mpdiag.store import Run
from mpdiag.store.transitions import TRANSITIONS, transitions_sql


@pytest.fixture(scope="module")
def run(shared_run):
    return shared_run("one", images=8, seed=3, shards=2)


@pytest.fixture
def own_run(run, tmp_path):
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(run, tmp_path / run.name))


def bars(page):
    figure = from_json(page.get("plotly_chart")[0].proto.spec)
    return {trace.name: dict(zip(trace.x, trace.y, strict=True)) for trace in figure.data}


def transitions_of_class(run, kind, layer):
    """Return (image, query) of all transitions of a class into a layer."""
    sql = f"SELECT image_id, query FROM ({transitions_sql()}) WHERE kind = ? AND layer = ?"
    return set(Run.open(run).query(sql, [kind, layer]).itertuples(index=False, name=None))


def links(page):
    return [link.proto.query_string for link in page.get("page_link")]


def shown(page):
    """Return (image, query) of the examples."""
    pairs = [dict(part.split("=") for part in link.split("&")) for link in links(page)]
    return {(int(pair["image"]), int(pair["query"])) for pair in pairs}


def test_shares_of_all_classes_in_all_layers(run, open_page):
    page = open_page(run, page="transitions", kept=1)
    found = bars(page)
    assert list(found) == list(TRANSITIONS)
    for row in Run.open(run).transitions().itertuples():
        assert found[row.transition][row.layer] == pytest.approx(100 * row.share)
    share, gain = (frame.value.set_index("Transition") for frame in page.dataframe)
    assert share["3"].sum() == pytest.approx(100)
    expected = Run.open(run).transitions().set_index(["layer", "transition"])["util_gain"]
    assert gain.loc["switched", "2"] == pytest.approx(100 * expected[2, "switched"])


def test_kept_masks_are_hidden_by_default(run, open_page):
    page = open_page(run, page="transitions")
    assert list(bars(page)) == list(TRANSITIONS)[1:]
    page.toggle(key="widget-kept").set_value(True).run()
    assert list(bars(page)) == list(TRANSITIONS)
    assert page.query_params == {"kept": "1"}


@pytest.mark.parametrize("kind", TRANSITIONS)
def test_examples_have_the_selected_class_and_layer(run, open_page, kind):
    page = open_page(run, page="transitions", transition=kind, layer=2)
    expected = transitions_of_class(run, kind, 2)
    assert shown(page) <= expected
    assert len(shown(page)) == min(6, len({image for image, _ in expected}))
    assert len(page.get("image")) == len(shown(page))
    if not expected:
        assert "No transition of this class" in page.info[0].value


def test_default_layer_has_most_transitions_of_the_class(run, open_page):
    page = open_page(run, page="transitions")
    page.selectbox(key="widget-transition").set_value("vanished").run()
    counts = [len(transitions_of_class(run, "vanished", layer)) for layer in range(1, 10)]
    assert page.selectbox(key="widget-layer").value == 1 + counts.index(max(counts))
    page.selectbox(key="widget-layer").set_value(4).run()
    assert shown(page) <= transitions_of_class(run, "vanished", 4)


def test_queries_with_saved_masks_come_first(own_run, open_page):
    expected = transitions_of_class(own_run, "drifted", 3)
    most_common, _ = Counter(query for _, query in expected).most_common(1)[0]
    kept = {(image, query) for image, query in expected if query == most_common}
    for file in (own_run / "masks").glob("*.parquet"):
        table = pq.read_table(file)
        rows = [
            row for row in table.to_pylist() if row["kind"] == "gt" or row["index"] == most_common
        ]
        pq.write_table(table.from_pylist(rows, table.schema), file)
    page = open_page(own_run, page="transitions", transition="drifted", layer=3)
    assert shown(page) >= kept
    links = [link.proto.query_string for link in page.get("page_link")]
    assert links and all(link.endswith("&layer=3") for link in links)
    assert len(page.get("image")) == len(kept)
    shutil.rmtree(own_run / "masks")
    os.utime(own_run / "run.json", (1, 1))  # the cache must not return the old run
    page = open_page(own_run, page="transitions", transition="drifted", layer=3)
    assert shown(page) and not page.get("image")
    assert any("--save-masks" in caption.value for caption in page.caption)


@pytest.mark.parametrize(
    "state", [{"transition": "<b>"}, {"layer": 0}, {"layer": 10, "transition": "../kept"}]
)
def test_invalid_url_shows_the_default(run, open_page, state):
    page = open_page(run, page="transitions", **state)
    assert page.selectbox(key="widget-transition").value == "switched"
    assert 1 <= page.selectbox(key="widget-layer").value <= 9


def test_run_of_schema_version_1_is_an_error(own_run, open_page):
    header = json.loads((own_run / "run.json").read_text())
    (own_run / "run.json").write_text(json.dumps({**header, "schema_version": 1}))
    page = open_page(own_run, page="transitions")
    assert "analyse again" in page.error[0].value


def test_file_names_are_escaped_and_a_missing_image_is_no_error(own_run, open_page):
    for file in (own_run / "images").glob("*.parquet"):
        table = pq.read_table(file)
        rows = [{**row, "file_name": "[x](http://y) <b>"} for row in table.to_pylist()]
        pq.write_table(table.from_pylist(rows, table.schema), file)
    shutil.rmtree(own_run / "thumbnails")
    page = open_page(own_run, page="transitions", transition="drifted")
    assert page.get("page_link")[0].proto.label.startswith(r"\[x\]\(http\:\/\/y\) \<b\>")
    assert len(page.get("image")) == len(shown(page))
