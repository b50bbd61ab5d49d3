"""The Queries page against loops over the rows."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import streamlit as st
from plotly.io import from_json

from apps import query_usage


@pytest.fixture(scope="module")
def run(shared_run):
    return shared_run("one", images=12, seed=3, shards=2)


@pytest.fixture
def own_run(run, tmp_path):
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(run, tmp_path / run.name))


def rows(run, folder):
    return pq.read_table(run / folder).to_pylist()


def figures(page):
    return [from_json(chart.proto.spec) for chart in page.get("plotly_chart")]


def matches(run, layer):
    found = Counter(
        row["query"]
        for row in rows(run, "queries")
        if row["layer"] == layer and row["matched_gt"] >= 0
    )
    return [found[query] for query in range(6)]


@pytest.mark.parametrize("layer", [0, 9])
def test_bars_count_the_matches_of_each_query(run, open_page, layer):
    page = open_page(run, page="queries", layer=layer)
    bars = figures(page)[0].data[0]
    assert bars.x == tuple("012345")
    assert list(bars.y) == matches(run, layer)
    assert f"**{matches(run, layer).count(0)} of 6**" in page.markdown[0].value
    table = page.dataframe[-1].value
    assert table["Matches"].tolist() == matches(run, layer)


def test_sort_order_and_selected_query(run, open_page):
    page = open_page(run, page="queries")
    busiest = int(np.argmax(matches(run, 9)))
    assert page.selectbox(key="widget-query").value == busiest
    page.selectbox(key="widget-order").set_value("matches").run()
    assert list(figures(page)[0].data[0].y) == sorted(matches(run, 9), reverse=True)
    page.selectbox(key="widget-query").set_value(4).run()
    assert page.query_params == {"order": "matches", "query": "4"}
    page.selectbox(key="widget-layer").set_value(2).run()
    assert page.header[0].value == "Query 4 in M²"


@pytest.mark.parametrize("stride", [2, 8])
def test_area_uses_the_stride_of_the_saved_masks(own_run, open_page, stride):
    usual = open_page(own_run, page="queries").dataframe[-1].value["Area, %"]
    for file in (own_run / "images").glob("*.parquet"):
        table = pq.read_table(file)
        for name in ("input_height", "input_width"):
            sizes = pa.array([size * stride // 4 for size in table[name].to_pylist()], pa.int32())
            table = table.set_column(table.column_names.index(name), name, sizes)
        pq.write_table(table, file)
    st.cache_data.clear()
    assert pq.read_table(own_run / "masks").num_rows
    area = open_page(own_run, page="queries").dataframe[-1].value["Area, %"]
    assert area.tolist() == pytest.approx(usual.tolist())


def test_map_of_mask_centers(run, open_page):
    page = open_page(run, page="queries", query=2, layer=5)
    expected = np.zeros((query_usage.BINS, query_usage.BINS), dtype=int)
    for row in rows(run, "queries"):
        if (row["query"], row["layer"]) == (2, 5) and row["area"]:
            x, y = (int(row[f"center_{axis}"] * query_usage.BINS) for axis in "xy")
            expected[y, x] += 1
    assert np.array_equal(figures(page)[1].data[0].z, expected)


def test_matched_gt_of_a_query(run, open_page):
    page = open_page(run, page="queries", query=2, layer=9)
    gt = {(row["image_id"], row["gt"]): row for row in rows(run, "targets")}
    own = [
        (gt[row["image_id"], row["matched_gt"]], row["matched_gt_iou"])
        for row in rows(run, "queries")
        if (row["query"], row["layer"]) == (2, 9) and row["matched_gt"] >= 0
    ]
    expected = np.zeros((query_usage.BINS, query_usage.BINS), dtype=int)
    for target, _ in own:
        x, y, width, height = target["bbox"]
        across, down = (x + width / 2) / 128, (y + height / 2) / 96
        expected[int(down * query_usage.BINS), int(across * query_usage.BINS)] += 1
    assert np.array_equal(figures(page)[2].data[0].z, expected)
    table = page.dataframe[0].value.set_index("Class")["Matches"].to_dict()
    names = ("disc", "square", "star")
    assert table == Counter(names[target["label"]] for target, _ in own)
    best = sorted((iou for _, iou in own), reverse=True)[:6]
    labels = [link.proto.label for link in page.get("page_link")]
    assert labels == [f"IoU {100 * iou:.1f}%" for iou in best]
    links = [link.proto.query_string for link in page.get("page_link")]
    assert all(link.endswith("&query=2&layer=9") for link in links)


def test_run_without_mask_centers(own_run, open_page):
    for file in (own_run / "queries").glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["center_x", "center_y"]), file)
    header = json.loads((own_run / "run.json").read_text())
    (own_run / "run.json").write_text(json.dumps({**header, "schema_version": 2}))
    page = open_page(own_run, page="queries")
    assert "no mask centers" in page.info[0].value
    assert len(figures(page)) == 2


@pytest.mark.parametrize("state", [{"query": "77"}, {"layer": "-1"}, {"query": "../x", "order": 3}])
def test_invalid_url_shows_the_default(run, open_page, state):
    page = open_page(run, page="queries", **state)
    assert page.header[0].value == f"Query {int(np.argmax(matches(run, 9)))} in M⁹"
