"""The Compare page against the comparison of the store, and one image in both runs."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from plotly.io import from_json

from mpdiag.store import Run, compare


@pytest.fixture(scope="module")
def shared_runs(make_run, tmp_path_factory):
    """Two runs over the same images; a third of the queries of the second do not change."""
    folder = tmp_path_factory.mktemp("compared")
    paths = [make_run(folder / name, images=8, seed=3) for name in "ab"]
    file = next((paths[1] / "queries").glob("*.parquet"))
    table = pq.read_table(file)
    rows = [
        {**row, "iou_prev": 1.0} if row["query"] % 3 == 0 and row["iou_prev"] is not None else row
        for row in table.to_pylist()
    ]
    pq.write_table(table.from_pylist(rows, table.schema), file)
    shutil.rmtree(paths[1] / "aggregates")
    return paths


@pytest.fixture
def runs(shared_runs, tmp_path):
    """Copies of these runs, to be changed."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in shared_runs]


def figures(page):
    return [from_json(chart.proto.spec) for chart in page.get("plotly_chart")]


def test_one_run_is_not_enough(shared_run, open_page):
    page = open_page(shared_run("one"), page="compare")
    assert "mpdiag dashboard RUN_A RUN_B" in page.info[0].value


def test_differences_are_those_of_the_store(shared_runs, open_page):
    page = open_page(*shared_runs, page="compare")
    expected = compare(*map(Run.open, shared_runs))
    for trace, metric in zip(figures(page)[0].data, ("miou_l", "util"), strict=True):
        rows = expected.layers[expected.layers["metric"] == metric]
        assert list(trace.x) == rows["layer"].tolist()
        assert list(trace.y) == pytest.approx(100 * rows["difference"])
        assert list(trace.error_y.array) == pytest.approx(100 * (rows["high"] - rows["difference"]))
    moved = expected.moved_images[expected.moved_images["metric"] == "miou_l"]
    images = next(frame.value for frame in page.dataframe if "Image" in frame.value)
    assert images["Image"].tolist() == moved["file_name"].tolist()
    assert images["difference"].tolist() == pytest.approx(100 * moved["difference"])
    assert page.selectbox(key="widget-image").value == moved["image_id"].iloc[0]


def test_scores_have_their_labels_and_are_in_percent(runs, open_page):
    for run, ap in zip(runs, (0.25, 0.5), strict=True):
        summary = json.loads((run / "summary.json").read_text())
        scores = {"ap": {"ap": ap, "ap_small": 0.125}}
        (run / "summary.json").write_text(json.dumps({**summary, **scores}))
    page = open_page(*runs, page="compare")
    column = "Score of the last layer, %"
    found = next(frame.value for frame in page.dataframe if column in frame.value)
    assert list(found.columns) == [column, "a", "b", "b - a"]
    assert found.to_numpy().tolist() == [["AP", 25, 50, 25], ["AP_S", 12.5, 12.5, 0]]


def test_different_settings_are_listed(runs, open_page):
    assert not [frame for frame in open_page(*runs, page="compare").dataframe
                if "Different setting" in frame.value]  # fmt: skip
    header = json.loads((runs[1] / "run.json").read_text())
    (runs[1] / "run.json").write_text(json.dumps({**header, "method": "[piloted]"}))
    page = open_page(*runs, page="compare")
    found = next(frame.value for frame in page.dataframe if "Different setting" in frame.value)
    assert found.to_numpy().tolist() == [["method", header["method"], "[piloted]"]]


def test_download_buttons_of_runs_with_long_names_are_unique(make_run, open_page, tmp_path):
    runs = [make_run(tmp_path / (letter * 60), images=4, seed=3) for letter in "ab"]
    for run, method in zip(runs, ("baseline", "piloted"), strict=True):
        for file, more in (("run.json", {"method": method}), ("summary.json", {"ap": {"ap": 0.5}})):
            content = json.loads((run / file).read_text())
            (run / file).write_text(json.dumps({**content, **more}))
    page = open_page(*runs, page="compare")
    assert not page.exception and not page.error
    assert sum("Score of the last layer, %" in frame.value for frame in page.dataframe) == 1
    names = [button.proto.id for button in page.get("download_button")]
    assert len(names) == len(set(names)) >= 3


def test_runs_can_be_swapped_and_must_differ(shared_runs, open_page):
    page = open_page(*shared_runs, page="compare", a="b-matching-part", b="a-matching-part")
    reversed_values = list(figures(open_page(*shared_runs, page="compare"))[0].data[0].y)
    assert list(figures(page)[0].data[0].y) == pytest.approx([-value for value in reversed_values])
    page.selectbox(key="widget-b").set_value("b-matching-part").run()
    assert "are the same" in page.info[0].value


def test_one_image_in_both_runs(shared_runs, open_page):
    page = open_page(*shared_runs, page="compare", image=4, gt=1)
    for number, run in enumerate(shared_runs, start=1):
        heat = figures(page)[number].data[0]
        for row in pq.read_table(run / "queries").to_pylist():
            if row["image_id"] == 4 and row["matched_gt"] >= 0:
                cell = row["matched_gt"], row["layer"]
                assert heat.text[cell[0]][cell[1]] == str(row["query"])
                assert heat.z[cell[0]][cell[1]] == pytest.approx(100 * row["matched_gt_iou"])
    targets = pq.read_table(shared_runs[0] / "targets").to_pylist()
    final = next(r["matched_query"][-1] for r in targets if (r["image_id"], r["gt"]) == (4, 1))
    captions = [caption.value for caption in page.caption]
    assert f"a: query {final}, which matches GT 1 in the last layer." in captions
    assert len(page.get("image")) == 2 * 10
    links = [link.proto.query_string for link in page.get("page_link")]
    assert links == [f"run={name}-matching-part&image=4&query={final}" for name in "ab"]


def change(run, table, rows):
    """Let `rows` change the rows of a table of a run."""
    file = next((run / table).glob("*.parquet"))
    old = pq.read_table(file)
    changed = old.to_pylist()
    rows(changed)
    changed.sort(key=lambda row: (row["image_id"], row.get("layer", 0), row.get("gt", 0)))
    pq.write_table(old.from_pylist(changed, old.schema), file)


def swap_gt(run, image, first, second):
    """Give two GT of an image the numbers of each other."""
    swapped = {first: second, second: first}

    def swap(*names):
        def rows(rows):
            for row in rows:
                if row["image_id"] == image:
                    row |= {name: swapped.get(row[name], row[name]) for name in names}

        return rows

    change(run, "targets", swap("gt"))
    change(run, "queries", swap("matched_gt", "best_gt"))


def one_class(rows):
    for row in rows:
        row |= {"category_id": 1, "label": 0}


def test_gt_in_another_order_are_compared_with_themselves(runs, open_page):
    for run in runs:
        change(run, "targets", one_class)
    state = {"page": "compare", "image": 4, "gt": 0}
    before = open_page(*runs, **state)
    assert not any("another order" in caption.value for caption in before.caption)
    swap_gt(runs[1], 4, 0, 2)
    os.utime(runs[1] / "run.json", (1, 1))  # the cache must not return the old run
    page = open_page(*runs, **state)
    for number in (1, 2):
        old, new = (figures(shown)[number].data[0] for shown in (before, page))
        assert (new.text, new.y) == (old.text, old.y)
    assert any("another order" in caption.value for caption in page.caption)
    texts = [[c.value for c in shown.caption if "in the last layer" in c.value]
             for shown in (before, page)]  # fmt: skip
    assert texts[0] == texts[1]


def test_gt_with_other_boxes_are_not_compared(runs, open_page):
    def move(rows):
        for row in rows:
            if (row["image_id"], row["gt"]) == (4, 1):
                row["bbox"] = [row["bbox"][0] + 1, *row["bbox"][1:]]

    change(runs[1], "targets", move)
    page = open_page(*runs, page="compare", image=4)
    assert "boxes of its GT differ" in page.error[0].value
    assert not open_page(*runs, page="compare", image=3).error


def test_another_run_keeps_the_image_that_it_has(shared_run, shared_runs, open_page):
    others = [shared_run(name, images=4, seed=3) for name in "cd"]
    page = open_page(*shared_runs, *others, page="compare", image=7, gt=1)
    page.selectbox(key="widget-a").set_value("b-matching-part").run()
    page.selectbox(key="widget-b").set_value("a-matching-part").run()
    selected = [page.selectbox(key=f"widget-{key}").value for key in ("image", "gt")]
    assert selected == [7, 1] and not page.info
    for key, name in zip("ab", "cd", strict=True):
        page.selectbox(key=f"widget-{key}").set_value(f"{name}-matching-part").run()
    assert page.selectbox(key="widget-image").value in range(1, 5)
    assert "no image with the id 7" in page.info[0].value


def test_largest_changes_by_another_metric(shared_runs, open_page):
    page = open_page(*shared_runs, page="compare", image=4)
    page.selectbox(key="widget-metric").set_value("util").run()
    assert page.query_params["metric"] == "util" and "image" not in page.query_params
    moved = compare(*map(Run.open, shared_runs)).moved_images
    expected = moved[moved["metric"] == "util"]["file_name"].tolist()
    assert page.dataframe[1].value["Image"].tolist() == expected


@pytest.mark.parametrize("image", ["99", "-1", "../../etc/passwd", "9" * 30])
def test_unknown_image_is_ignored(shared_runs, open_page, image):
    page = open_page(*shared_runs, page="compare", image=image)
    assert not page.error
    assert page.selectbox(key="widget-image").value in range(1, 9)


def test_image_without_gt_or_masks(runs, open_page):
    page = open_page(*runs, page="compare", image=1)
    assert "no GT" in page.info[0].value
    shutil.rmtree(runs[0] / "masks")
    os.utime(runs[0] / "run.json", (1, 1))  # the cache must not return the old run
    page = open_page(*runs, page="compare", image=4, gt=0)
    assert any("--save-masks all" in caption.value for caption in page.caption)


def test_runs_over_different_images_are_an_error(shared_run, open_page):
    runs = [shared_run(name, images=count) for name, count in (("a", 4), ("b", 5))]
    page = open_page(*runs, page="compare")
    assert "different images" in page.error[0].value


def test_names_from_files_are_escaped(make_run, open_page, tmp_path):
    hostile = [{"category_id": k, "name": "<b>*x*</b> $y$", "isthing": True} for k in (1, 2, 3)]
    names = {"name": "[run](http://x) <i>", "classes": hostile}
    runs = [make_run(tmp_path / name, seed=seed, **names) for seed, name in enumerate("ab")]
    for file in (runs[1] / "targets").glob("*.parquet"):  # the same GT in both
        shutil.copy(runs[0] / "targets" / file.name, file)
    page = open_page(*runs, page="compare", image=4)
    assert not page.error
    assert figures(page)[1].data[0].y[0] == "0 &lt;b&gt;*x*&lt;/b&gt; $y$"
    assert any(r"\[run\]\(http\:\/\/x\) \<i\>" in text.value for text in page.markdown)
