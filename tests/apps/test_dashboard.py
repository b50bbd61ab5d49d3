"""The whole dashboard: runs and pages, damaged runs, and invalid URLs."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plotly.io import from_json

from apps import dashboard

PAGES = list(dashboard.VIEWS)


def names(page):
    figure = from_json(page.get("plotly_chart")[0].proto.spec)
    return [trace.name for trace in figure.data if trace.showlegend]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_opens_with_one_run_and_with_several(shared_run, open_page, path):
    runs = [shared_run("one"), shared_run("two", part="piloted")]
    for opened in (runs[:1], runs):
        page = open_page(*opened, page=path)
        assert page.title[0].value == dashboard.VIEWS[path][0]
        assert not page.error


@pytest.mark.parametrize("path", PAGES)
def test_a_screen_reader_can_distinguish_what_is_on_a_page(shared_run, open_page, path):
    runs = [shared_run(name, seed=3) for name in ("one", "two")]
    page = open_page(*runs, page=path, image=4)
    for kind in ("download_button", "page_link"):
        labels = [element.proto.label for element in page.get(kind)]
        assert len(labels) == len(set(labels)), labels
    texts = [image.alt for images in page.get("image") for image in images.proto.imgs]
    assert len(texts) == len(set(texts)), texts


@pytest.mark.parametrize("path", PAGES)
def test_every_page_opens_with_a_run_without_images(shared_run, open_page, path):
    page = open_page(shared_run("one", images=0), page=path)
    assert not page.error


@pytest.mark.parametrize("path", PAGES)
def test_every_page_explains_what_to_do_without_a_run(open_page, path):
    page = open_page(page=path)
    assert "mpdiag analyze" in page.info[0].value
    assert not page.selectbox


def test_damaged_run_is_an_error_beside_the_other_runs(make_run, open_page, tmp_path):
    intact = make_run(tmp_path / "intact")
    unfinished = make_run(tmp_path / "unfinished", finish=False)
    broken = make_run(tmp_path / "broken")
    (broken / "run.json").write_text("{")
    no_summary = make_run(tmp_path / "no_summary")
    (no_summary / "summary.json").write_text("{}")
    unreadable = make_run(tmp_path / "unreadable")
    next((unreadable / "queries").glob("*.parquet")).write_bytes(b"PAR1, truncated")
    page = open_page(
        unfinished, broken, tmp_path / "nowhere", no_summary, unreadable, "/" + "x" * 5000, intact
    )
    errors = " ".join(error.value.replace("\\", "") for error in page.error)
    for path in (unfinished, broken, tmp_path / "nowhere", no_summary, unreadable, "/xxx"):
        assert str(path) in errors
    assert names(page)[-1] == "intact, matching part"
    assert len(names(page)) == 3 + 1


@pytest.fixture(scope="module")
def broken(make_run, tmp_path_factory):
    """A run of readable Parquet files with lists that are too short and columns of a wrong type."""
    run = make_run(tmp_path_factory.mktemp("broken") / "one")
    targets = next((run / "targets").glob("*.parquet"))
    rows = [{**row, "matched_query": [], "label": 99} for row in pq.read_table(targets).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(targets)), targets)
    queries = next((run / "queries").glob("*.parquet"))
    table = pq.read_table(queries)
    words = pa.array(["<script>alert(1)</script>"] * len(table))
    for name in ("iou_prev", "matched_gt_iou"):
        table = table.set_column(table.schema.get_field_index(name), name, words)
    pq.write_table(table, queries)
    shutil.rmtree(run / "aggregates")
    return run


@pytest.mark.parametrize("path", [path for path in PAGES if path != "live"])
def test_rows_that_break_a_page_are_an_error_on_this_page(broken, shared_run, open_page, path):
    page = open_page(broken, shared_run("two"), page=path, damaged=True)
    assert page.error
    assert not any("<script>" in error.value for error in page.error)


@pytest.fixture(scope="module")
def wrong_headers(make_run, tmp_path_factory):
    """A run whose run.json has values of wrong types, and one with sections of wrong types."""
    wrong = {"name": ["<b>"], "part": {"x": 1}, "classes": [7, None, {"name": 3}]}
    sections = {"dataset": "coco", "settings": 5, "timings": []}
    runs = []
    for changes in (wrong, sections):
        run = make_run(tmp_path_factory.mktemp("wrong") / "one")
        header = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(header | changes))
        runs.append(run)
    return runs


@pytest.mark.parametrize("path", PAGES)
def test_header_with_wrong_types_breaks_no_page(wrong_headers, shared_run, open_page, path):
    wrong, with_sections = wrong_headers
    assert not open_page(wrong, page=path).error
    page = open_page(with_sections, shared_run("two"), page=path)
    assert not page.error  # they are left out


def test_runs_with_the_same_name_have_different_labels(make_run, open_page, tmp_path):
    first, second = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run", seed=2)
    page = open_page(first, second, first)
    assert len(names(page)) == 3 + 2
    assert len(set(page.selectbox(key="widget-run").options)) == 2


def test_name_of_a_run_is_not_markup(shared_run, open_page):
    page = open_page(shared_run("one", name="<i>run</i>"))
    assert "&lt;i&gt;run&lt;/i&gt;, matching part" in names(page)


def test_url_selects_only_loaded_runs(shared_run, open_page):
    one, two, hidden = map(shared_run, ("one", "two", "hidden"))
    page = open_page(one, two, run="two-matching-part")
    assert page.selectbox(key="widget-run").value == "two-matching-part"
    for slug in (hidden, "hidden-matching-part", "../hidden", ""):
        page = open_page(one, two, run=slug)
        assert page.selectbox(key="widget-run").value == "one-matching-part"
        assert page.query_params["run"] == "one-matching-part"


def test_pages_share_the_selected_run(shared_run, open_page):
    page = open_page(shared_run("one"), shared_run("two"))
    page.selectbox(key="widget-run").set_value("two-matching-part").run()
    page.query_params.clear()
    page.run()
    assert page.query_params == {"run": "two-matching-part"}


def test_another_run_drops_the_numbers_of_the_first_run(shared_run, open_page):
    runs = [shared_run(name) for name in ("one", "two")]
    state = {"page": 2, "class": "1~2", "objects": "1~2", "finding": 1, "image": 3}
    page = open_page(*runs, page="images", run="one-matching-part")
    page.query_params.update({key: str(value) for key, value in state.items()})
    page.selectbox(key="widget-run").set_value("two-matching-part").run()
    assert page.query_params == {"run": "two-matching-part", "objects": "1~2", "image": "3"}


def test_figures_are_saved_in_the_selected_format(shared_run, open_page):
    page = open_page(shared_run("one"))
    config = json.loads(page.get("plotly_chart")[0].proto.config)
    assert config["toImageButtonOptions"]["format"] == "svg"
    page.selectbox(key="widget-figures").set_value("png").run()
    config = json.loads(page.get("plotly_chart")[0].proto.config)
    assert config["toImageButtonOptions"]["format"] == "png"
