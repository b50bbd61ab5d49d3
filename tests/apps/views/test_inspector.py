"""The Inspector page."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from plotly.io import from_json
from synthetic_run import RunSize, write_run

from apps import attention, filmstrip
from apps.image_queries import QueryLayer
from apps.views import inspector
from mpdiag import rle
from mpdiag.store import Run
from mpdiag.store.attention import StoredAttention
from mpdiag.store.schema import ATTENTION

SYMBOLS = ["M⁰", "M¹", "M²", "M³", "M⁴", "M⁵", "M⁶", "M⁷", "M⁸", "M⁹"]


def tiles(page):
    """Return the lines below each mask."""
    lines = [caption.value.split("  \n") for caption in page.caption]
    return [line for line in lines if line[0].startswith("**M")]


def box(page, key):
    return page.selectbox(key=f"widget-{key}")


def rows_of(run, image_id, query):
    rows = pq.read_table(run / "queries").to_pylist()
    chosen = [row for row in rows if (row["image_id"], row["query"]) == (image_id, query)]
    return sorted(chosen, key=lambda row: row["layer"])


def test_filmstrip_has_the_numbers_of_each_layer(shared_run, open_page):
    run = shared_run("one")
    page = open_page(run, page="inspector", image=4, query=2)
    shown = tiles(page)
    assert [lines[0].strip("*") for lines in shown] == SYMBOLS
    rows = rows_of(run, 4, 2)
    lowest = min(row["iou_prev"] for row in rows if row["iou_prev"] is not None)
    before = None
    for row, (_, iou, gt, best, predicted) in zip(rows, shown, strict=True):
        if row["layer"] == 0:
            assert iou == "first layer"
        elif row["iou_prev"] is None:
            assert iou == "both empty"
        else:
            text = f"IoU {100 * row['iou_prev']:.1f}%"
            assert iou == (f"**{text}**" if row["iou_prev"] == lowest else text)
        matched = row["matched_gt"]
        assert gt.startswith("⇄") == (before is not None and matched != before)
        assert gt.endswith(f"match GT {matched}" if matched >= 0 else "no match")
        if row["best_gt"] >= 0:
            assert best == f"GT {row['best_gt']}: {100 * row['best_gt_iou']:.1f}%"
        else:
            assert best == "no overlap"
        assert predicted == f"{('disc', 'square', 'star')[row['label']]} {row['score']:.2f}"
        before = matched


@pytest.mark.parametrize(
    ("areas", "text"),
    [((0, 0), "both empty"), ((None, 0), "not finite"), ((0, None), "not finite")],
)
def test_masks_without_iou(shared_run, areas, text):
    previous, layer = (QueryLayer(k, None, -1, -1, None, None, None, areas[k]) for k in range(2))
    run = Run.open(shared_run("one", images=1))
    assert filmstrip._describe(run, layer, previous, None).split("  \n")[1] == text


def test_the_lowest_iou_is_selected_first(shared_run, open_page):
    run = shared_run("one", seed=5)
    page = open_page(run, page="inspector")
    rows = pq.read_table(run / "queries").to_pylist()
    lowest = min(row["iou_prev"] for row in rows if row["iou_prev"] is not None)
    assert any(f"IoU {100 * lowest:.1f}%" in lines[1] for lines in tiles(page))


def test_each_gt_is_listed_with_its_final_query(shared_run, open_page):
    run = shared_run("one")
    page = open_page(run, page="inspector", image=4)
    targets = [row for row in pq.read_table(run / "targets").to_pylist() if row["image_id"] == 4]
    shown = page.dataframe[0].value.to_dict("records")
    assert len(shown) == len(targets) == 3
    for row, target in zip(shown, targets, strict=True):
        queries = target["matched_query"]
        since = max(i for i in range(10) if i == 0 or queries[i - 1] != queries[-1])
        assert row["GT"] == target["gt"]
        assert (row["Final query"], row["Since"]) == (str(queries[-1]), SYMBOLS[since])


def test_url_restores_image_query_and_layer(shared_run, open_page):
    run = shared_run("one")
    page = open_page(run, page="inspector", image=3, query=5, layer=7, color="score")
    assert [box(page, key).value for key in ("image", "query", "layer", "color")] == [
        3,
        5,
        7,
        "score",
    ]
    assert any("M⁶" in caption.value and "layer 7" in caption.value for caption in page.caption)


@pytest.mark.parametrize(
    "state",
    [
        {"image": 99},
        {"image": "../../etc"},
        {"image": -4, "query": 99, "layer": 0},
        {"image": 10**30, "query": "<b>", "layer": "x", "color": "1; DROP"},
    ],
)
def test_invalid_url_shows_the_default(shared_run, open_page, state):
    run = shared_run("one", seed=5)
    page, default = (open_page(run, page="inspector", **url) for url in (state, {}))
    assert tiles(page) == tiles(default)
    assert not page.error


def test_another_image_resets_query_and_layer(shared_run, open_page):
    page = open_page(shared_run("one"), page="inspector", image=3, query=5, layer=7)
    box(page, "image").set_value(4).run()
    assert page.query_params == {"image": "4"}
    assert box(page, "query").options[0].startswith(f"Query {box(page, 'query').value}:")


@pytest.mark.parametrize(
    ("state", "shown"),
    [({"query": 1}, None), ({"query": 1, "first": 3}, ["1", "3", "4", "5"]),
     ({"query": 1, "first": 2}, None)],
)  # fmt: skip
def test_heatmap_of_many_queries_shows_some(shared_run, open_page, monkeypatch, state, shown):
    run = shared_run("one", queries=7)
    assert not any(
        "hidden" in caption.value for caption in open_page(run, page="inspector", image=4).caption
    )
    monkeypatch.setattr(inspector, "MAX_QUERIES", 3)
    page = open_page(run, page="inspector", image=4, **state)
    heatmap = from_json(page.get("plotly_chart")[0].proto.spec).data[0]
    if shown is None:  # of the three GT, two have other queries than the selected one
        targets = [r for r in pq.read_table(run / "targets").to_pylist() if r["image_id"] == 4]
        matched = {row["matched_query"][-1] for row in targets} - {1}
        assert "1" in heatmap.x and len(heatmap.x) == 3
        assert {int(name) for name in heatmap.x} - {1} <= matched
        shown = heatmap.x
    assert list(heatmap.x) == list(shown)
    assert box(page, "first").options == [
        "3: matched, then highest scores", "0 to 2", "3 to 5", "6 to 6",
    ]  # fmt: skip
    assert any(f"**{7 - len(shown)} queries are hidden.**" in text.value for text in page.caption)


def test_an_image_that_the_other_run_lacks_is_named(shared_run, open_page):
    runs = [shared_run("few", images=4), shared_run("many", images=8)]
    state = {"page": "inspector", "run": "many-matching-part"}
    page = open_page(*runs, **state, image=4)
    box(page, "run").set_value("few-matching-part").run()
    assert box(page, "image").value == 4 and not page.info
    page = open_page(*runs, **state, image=8)
    assert box(page, "image").value == 8 and not page.info
    box(page, "run").set_value("few-matching-part").run()
    first = box(page, "image").value
    assert first in range(1, 5)
    assert box(page, "image").options[0].startswith(f"{first:06d}.jpg")
    assert "no image with the id 8" in page.info[0].value
    box(page, "run").set_value("many-matching-part").run()
    assert box(page, "image").value == 8 and not page.info


def section(page, layer):
    """Return the captions of the attention section: the text, and that of each image."""
    captions = [caption.value for caption in page.caption]
    first = next(k for k, text in enumerate(captions) if f"ayer {layer} attends" in text)
    last = captions.index(f"Prediction of layer {layer}: {SYMBOLS[layer]}")
    return captions[first : last + 1]


@pytest.mark.parametrize("query", [2, 5])
def test_saved_attention_is_shown(shared_run, open_page, query):
    run = shared_run("one")
    page = open_page(run, page="inspector", image=4, query=query, layer=3)
    rows = pq.read_table(run / "attention").to_pylist()
    (row,) = (r for r in rows if (r["image_id"], r["layer"], r["query"]) == (4, 3, query))
    text, mask, weights, _ = section(page, 3)
    assert "a grid of 12 x 16 cells" in text and "--save-attention" not in text
    share = rle.decode(row["counts"], 12, 16).mean()
    where = "everywhere" if share == 1 else f"{100 * share:.1f}% of the cells"
    assert mask == f"Attention mask of layer 3: {where}"
    assert f"{100 * 255 * row['step']:.3g}% per cell" in weights


@pytest.mark.parametrize("gone", ["folder", "query"])
def test_without_saved_attention_the_previous_mask_is_shown(make_run, open_page, tmp_path, gone):
    run = make_run(tmp_path / "one")
    if gone == "folder":
        shutil.rmtree(run / "attention")
    else:
        change(run, lambda table: table.filter(pc.field("query") != 5))
    page = open_page(run, page="inspector", image=4, query=5, layer=3)
    text, mask, _ = section(page, 3)
    assert "--save-attention" in text and "mpdiag.record" in text and "everywhere" in text
    assert "M²" in mask
    assert not page.error


@pytest.mark.parametrize(
    ("header", "text", "mask"),
    [
        ({"part": "piloted", "settings": {"pilot_layers": 3}}, "the mask of GT 1", "of GT 1"),
        ({"part": "piloted", "settings": {"pilot_layers": 2}}, "inside M²,", ": M²"),
        ({"architecture": {"masked_attention": False}}, "no attention masks", None),
        ({"architecture": {"family": "transformers MaskFormer"}}, "not known", None),
        ({"architecture": {"family": "transformers Mask2Former"}}, "inside M²,", ": M²"),
    ],
)
def test_unsaved_attention_mask_is_that_of_the_model(
    make_run, open_page, tmp_path, header, text, mask
):
    run = make_run(tmp_path / "one", **header)
    shutil.rmtree(run / "attention")
    shown, *masks, _ = section(open_page(run, page="inspector", image=4, query=1, layer=3), 3)
    assert text in shown
    assert [mask in caption for caption in masks] == ([True] if mask else [])
    assert ("--save-attention" in shown) == ("part" not in header)


def test_model_without_attention_masks_shows_its_weights(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one")
    place = ATTENTION.names.index("counts")
    none = pa.nulls(pq.read_table(run / "attention").num_rows, pa.binary())
    change(run, lambda table: table.set_column(place, "counts", none))
    text, weights, _ = section(open_page(run, page="inspector", image=4, layer=3), 3)
    assert "no attention masks" in text
    assert "Cross-attention" in weights


def test_share_of_an_attention_mask_is_that_of_the_image():
    mask = np.array([[True, False, True], [False, False, True], [True, True, True]])
    weights = np.ones((3, 3), np.float32) / 9
    saved = StoredAttention(weights, mask, (1.5, 2.0))  # the rest is padding
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    (_, caption), _ = attention._saved_attention(2, saved, image)
    assert caption == "Attention mask of layer 2: 25.0% of the cells"


def test_damaged_attention_is_an_error_beside_the_rest(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one")
    place = ATTENTION.names.index("height")
    heights = pa.array([999] * pq.read_table(run / "attention").num_rows, pa.int32())
    change(run, lambda table: table.set_column(place, "height", heights))
    page = open_page(run, page="inspector", image=4, query=5)
    assert r"attention\: image 4\, query 5 is invalid" in page.error[0].value
    assert any("as in the paper's Figure 1" in caption.value for caption in page.caption)


def change(run, edit):
    """Rewrite a run's attention after `edit`."""
    (file,) = (run / "attention").glob("*.parquet")
    pq.write_table(edit(pq.read_table(file)), file)


def test_largest_changes_link_to_their_query_and_layer(shared_run, open_page):
    run = shared_run("one")
    page = open_page(run, page="inspector", image=4)
    count = sum(button.label.startswith("Show query") for button in page.button)
    assert 1 <= count <= 4
    for place in range(count):
        page = open_page(run, page="inspector", image=4)
        page.button[place].click().run()
        rows = rows_of(run, 4, int(page.query_params["query"]))
        ious = [row["iou_prev"] for row in rows[1:] if row["area"] and row["area_prev"]]
        assert rows[-1]["matched_gt"] >= 0
        assert rows[int(page.query_params["layer"])]["iou_prev"] == min(ious)


def test_image_without_gt(shared_run, open_page):
    page = open_page(shared_run("one"), page="inspector", image=1)
    assert any("no ground truth" in caption.value for caption in page.caption)
    assert not page.dataframe


def test_image_without_queries_of_the_mp_part(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one")
    for path in (run / "queries").iterdir():
        rows = pq.read_table(path)
        pq.write_table(rows.filter(pc.not_equal(rows["image_id"], 1)), path)
    page = open_page(run, page="inspector", image=1)
    assert "no queries in an image without GT" in page.info[0].value
    assert not page.exception and not page.error


@pytest.mark.parametrize("layers", [1, 3, 15])
def test_any_number_of_layers_is_shown(shared_run, open_page, layers):
    page = open_page(shared_run("run", layers=layers), page="inspector")
    assert len(tiles(page)) == layers + 1


def test_one_prediction_has_no_layer_to_compare_with(open_page, tmp_path):
    size = RunSize(images=2, queries=4, layers=0, saved=2, height=30, width=40)
    page = open_page(write_run(tmp_path / "one", size), page="inspector", layer=1)
    assert len(tiles(page)) == 1 and not page.error
    heatmap, matching = (from_json(chart.proto.spec) for chart in page.get("plotly_chart"))
    assert not heatmap.layout.shapes and matching.data
    assert not [text for text in box(page, "query").options if "empty" in text or "IoU" in text]
    assert "Attention of one layer" not in [header.value for header in page.header]


def test_run_without_saved_masks(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one")
    shutil.rmtree(run / "masks")
    page = open_page(run, page="inspector")
    assert "--save-masks" in page.info[0].value
    assert len(tiles(page)) == 10
    assert len(page.get("plotly_chart")) == 2


def test_missing_image_is_a_warning(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one")
    shutil.rmtree(run / "thumbnails")
    page = open_page(run, page="inspector")
    assert "no thumbnail" in page.warning[0].value
    assert len(tiles(page)) == 10


def test_damaged_mask_is_an_error(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one")
    file = next((run / "masks").glob("*.parquet"))
    table = pq.read_table(file)
    counts = table.schema.get_field_index("counts")
    larger = [rle.encode(np.ones((500, 500), dtype=bool))] * len(table)
    pq.write_table(table.set_column(counts, table.schema.field(counts), [larger]), file)
    page = open_page(run, page="inspector")
    assert "masks" in page.error[0].value


def test_names_from_files_are_escaped(shared_run, open_page):
    hostile = [{"category_id": k, "name": "<b>*x*</b> $y$", "isthing": True} for k in (1, 2, 3)]
    page = open_page(shared_run("one", classes=hostile), page="inspector")
    assert len(tiles(page)) == 10
    for lines in tiles(page):
        assert lines[4].startswith(r"\<b\>\*x\*\<\/b\> \$y\$ ")
