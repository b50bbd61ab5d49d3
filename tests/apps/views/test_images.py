"""The Images page."""

import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest

from apps.views import images
from apps.views.images import PAGE_SIZE


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("images") / "run", images=30, queries=4, layers=3)


def cards(page):
    """Return (file name, query string of its link) of each image."""
    links = [link.proto for link in page.get("page_link")]
    return [(link.label.replace("\\", ""), link.query_string) for link in links]


def set_to(page, kind, key, value):
    getattr(page, kind)(key=f"widget-{key}").set_value(value).run()
    assert not page.exception
    assert not page.error


def test_first_page_is_full_and_links_to_the_inspector(run, open_page):
    page = open_page(run, page="images")
    shown = cards(page)
    assert len(shown) == len(page.get("image")) == PAGE_SIZE
    assert all(query.startswith("run=run-matching-part&image=") for _, query in shown)
    assert "1 to 24 of 30" in " ".join(caption.value for caption in page.caption)


def test_page_number_is_in_the_url(run, open_page):
    page = open_page(run, page="images")
    first = cards(page)
    assert page.button[0].disabled
    page.button[1].click().run()
    assert page.query_params["page"] == "2"
    rest = cards(page)
    assert len(rest) == 6
    assert not set(first) & set(rest)
    assert page.button[1].disabled


@pytest.mark.parametrize("number", ["99", "-1", "two", "1e9"])
def test_invalid_page_number_shows_the_first_page(run, open_page, number):
    page = open_page(run, page="images")
    first = cards(page)
    page.query_params["page"] = number
    page.run()
    assert cards(page) == first


@pytest.mark.parametrize(
    ("kind", "key", "value", "text"),
    [
        ("selectbox", "sort", "miou_l", "miou_l"),
        ("selectbox", "sort", "objects", "objects"),
        ("selectbox", "sort", "transitions", "transitions"),
        ("selectbox", "sort", "name", "name"),
        ("selectbox", "layer", 2, "2"),
        ("selectbox", "transition", "vanished", "vanished"),
        ("multiselect", "class", [0, 2], "0~2"),
        ("slider", "objects", (1, 2), "1~2"),
        ("slider", "util", (0, 99), "0~99"),
        ("slider", "miou_l", (0, 40), "0~40"),
    ],
)
def test_every_filter_changes_the_view_and_is_restored_from_the_url(
    run, open_page, kind, key, value, text
):
    page = open_page(run, page="images")
    before = [caption.value for caption in page.caption], cards(page)
    set_to(page, kind, key, value)
    after = [caption.value for caption in page.caption], cards(page)
    assert after != before
    assert page.query_params[key] == text
    again = open_page(run, page="images", **{key: text})
    assert ([caption.value for caption in again.caption], cards(again)) == after


def test_a_filter_resets_the_page(run, open_page):
    page = open_page(run, page="images")
    page.button[1].click().run()
    set_to(page, "selectbox", "sort", "name")
    assert "page" not in page.query_params
    assert cards(page)[0][0] == "000001.jpg"


def test_filters_without_a_result_can_be_reset(run, open_page):
    page = open_page(run, page="images", util="0~0")
    assert "No image matches" in page.info[0].value
    page.button[0].click().run()
    assert page.query_params == {"run": "run-matching-part"}
    assert len(cards(page)) == PAGE_SIZE


def test_invalid_url_values_are_ignored(run, open_page):
    default = cards(open_page(run, page="images"))
    invalid = {"sort": "util; DROP", "layer": 77, "class": "9~x", "util": "a~b", "objects": "1~2~3"}
    assert cards(open_page(run, page="images", **invalid)) == default


def test_names_are_escaped_and_missing_images_are_placeholders(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one")
    shutil.rmtree(run / "thumbnails")
    file = next((run / "images").glob("*.parquet"))
    table = pq.read_table(file)
    column = table.schema.get_field_index("file_name")
    names = [["../../etc/passwd", "<img src=x>.jpg", "[a](http://b)", "x" * 500]]
    pq.write_table(table.set_column(column, "file_name", names), file)
    page = open_page(run, page="images")
    assert len(page.get("image")) == 4
    labels = {link.proto.label for link in page.get("page_link")}
    assert r"\<img src\=x\>\.jpg" in labels
    assert "passwd" in labels
    assert all(len(label) < 60 for label in labels)


def test_classes_with_the_same_name_have_different_labels(shared_run, open_page):
    classes = [{"category_id": k, "name": name, "isthing": True} for k, name in enumerate("aab")]
    page = open_page(shared_run("one", classes=classes), page="images")
    box = page.multiselect(key="widget-class")
    assert box.options == ["a (0)", "a (1)", "b"]
    box.select("a (1)").run()
    assert page.query_params["class"] == "1"


def test_files_are_in_percent():
    row = {"file_name": ["a"], "util": [0.5], "miou_l": [None], "total": [1]}
    table = images._in_percent(pd.DataFrame(row).astype({"miou_l": float}))
    assert list(table) == ["file_name", "Util, %", "mIoU-L, %"]
    assert table["Util, %"].tolist() == [50]


def test_placeholders_go_when_the_images_are_back(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one", images=1)
    thumbnails = (run / "thumbnails").rename(tmp_path / "gone")
    page = open_page(run, page="images")
    placeholder = page.get("image")[0].proto.imgs[0].url
    thumbnails.rename(run / "thumbnails")
    page.run()
    assert page.get("image")[0].proto.imgs[0].url != placeholder


def test_run_without_images(shared_run, open_page):
    page = open_page(shared_run("one", images=0), page="images")
    assert "no images" in page.info[0].value
