import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from plotly.io import from_json

from mpdiag.store import rle

SYMBOLS = ["M⁰", "M¹", "M²", "M³", "M⁴", "M⁵", "M⁶", "M⁷", "M⁸", "M⁹"]


def traces(page):
    figure = from_json(page.get("plotly_chart")[0].proto.spec)
    return {trace.name: list(trace.y) for trace in figure.data if trace.showlegend}


def tiles(page):
    """The lines under each mask."""
    lines = [caption.value.split("  \n") for caption in page.caption]
    return [line for line in lines if line[0].startswith("**M")]


def box(page, label):
    return next(one for one in page.selectbox if one.label.startswith(label))


def rows_of(run, image_id, query):
    rows = pq.read_table(run / "queries").to_pylist()
    chosen = [row for row in rows if (row["image_id"], row["query"]) == (image_id, query)]
    return sorted(chosen, key=lambda row: row["layer"])


def test_the_curves_of_all_runs_stand_beside_the_papers(make_run, open_page, tmp_path):
    runs = [make_run(tmp_path / "one", seed=1), make_run(tmp_path / "two", part="piloted")]
    page = open_page(*runs)
    shown = traces(page)
    assert list(shown)[:3] == [
        "Mask2Former, matching part (paper)",
        "MP training, piloted part (paper)",
        "Multi-layer MP, piloted part (paper)",
    ]
    layers = json.loads((runs[0] / "summary.json").read_text())["layers"]
    expected = [100 * layer["miou_l"] for layer in layers]
    assert shown["one, matching part"] == pytest.approx(expected)
    assert "two, piloted part" in shown
    assert len(page.dataframe[0].value) == 2 * 5


def test_the_papers_figures_can_be_switched_off(make_run, open_page, tmp_path):
    page = open_page(make_run(tmp_path / "one"))
    page.toggle[0].set_value(False).run()
    assert list(traces(page)) == ["one, matching part"]
    assert page.dataframe[0].value["Model"].tolist() == ["one, matching part"] * 2


def test_the_convention_for_empty_pairs_moves_the_curve(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one")
    page = open_page(run)
    box(page, "Pairs of empty masks").select("counted as 1").run()
    layers = json.loads((run / "summary.json").read_text())["layers"]
    expected = [100 * layer["miou_l_empty1"] for layer in layers]
    assert traces(page)["one, matching part"] == pytest.approx(expected)


def test_the_masks_of_all_layers_stand_in_a_row_with_their_figures(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one")
    page = open_page(run)
    box(page, "Image").set_value(4).run()
    box(page, "Query").set_value(2).run()
    assert not page.exception
    shown = tiles(page)
    assert [lines[0].strip("*") for lines in shown] == SYMBOLS
    assert len(page.get("image")) == 1 + len(SYMBOLS)
    rows = rows_of(run, 4, 2)
    lowest = min(row["iou_prev"] for row in rows if row["iou_prev"] is not None)
    before = None
    for row, (_, iou, gt, predicted) in zip(rows, shown, strict=True):
        if row["layer"] == 0:
            assert iou == "first"
        elif row["iou_prev"] is None:
            assert iou == "both empty"
        else:
            text = f"IoU {100 * row['iou_prev']:.1f} %"
            assert iou == (f"**{text}**" if row["iou_prev"] == lowest else text)
        matched = row["matched_gt"]
        assert gt.startswith("⇄") == (before is not None and matched != before)
        assert ("no GT" in gt) == (matched < 0)
        assert matched < 0 or f"GT {matched} " in gt
        assert predicted == f"{('disc', 'square', 'star')[row['label']]} {row['score']:.2f}"
        before = matched


def test_the_worst_transition_is_chosen_first(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one", seed=5)
    page = open_page(run)
    rows = pq.read_table(run / "queries").to_pylist()
    lowest = min(row["iou_prev"] for row in rows if row["iou_prev"] is not None)
    assert f"IoU {100 * lowest:.1f} %" in box(page, "Image").format_func(box(page, "Image").value)
    assert any(f"IoU {100 * lowest:.1f} %" in lines[1] for lines in tiles(page))


def test_each_object_is_listed_with_the_layer_where_it_settles(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one")
    page = open_page(run)
    box(page, "Image").set_value(4).run()
    targets = [row for row in pq.read_table(run / "targets").to_pylist() if row["image_id"] == 4]
    shown = page.dataframe[1].value.to_dict("records")
    assert len(shown) == len(targets) == 3
    for row, target in zip(shown, targets, strict=True):
        queries = target["matched_query"]
        since = max(i for i in range(10) if i == 0 or queries[i - 1] != queries[-1])
        assert row["GT"] == target["gt"]
        assert (row["Final query"], row["Since"]) == (str(queries[-1]), SYMBOLS[since])


@pytest.mark.parametrize("layers", [1, 3, 15])
def test_any_number_of_layers_is_shown(make_run, open_page, tmp_path, layers):
    page = open_page(make_run(tmp_path / "run", layers=layers))
    assert len(tiles(page)) == layers + 1


def test_without_a_run_the_page_says_what_to_do(open_page):
    page = open_page()
    assert "mpdiag analyze" in page.info[0].value
    assert not page.selectbox


def test_a_run_without_masks_says_what_to_do(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one")
    shutil.rmtree(run / "masks")
    page = open_page(run)
    assert "--save-masks" in page.info[0].value
    assert "one, matching part" in traces(page)


def test_a_run_of_no_images_is_ordinary(make_run, open_page, tmp_path):
    page = open_page(make_run(tmp_path / "one", images=0))
    assert "--save-masks" in page.info[0].value


def test_a_broken_run_is_an_error_on_the_page_and_the_others_show(make_run, open_page, tmp_path):
    whole = make_run(tmp_path / "whole")
    unfinished = make_run(tmp_path / "unfinished", finish=False)
    broken = make_run(tmp_path / "broken")
    (broken / "run.json").write_text("{")
    bare = make_run(tmp_path / "bare")
    (bare / "summary.json").write_text("{}")
    page = open_page(unfinished, broken, tmp_path / "nowhere", bare, whole)
    errors = " ".join(error.value.replace("\\", "") for error in page.error)
    for path in (unfinished, broken, tmp_path / "nowhere", bare):
        assert str(path) in errors
    assert "whole, matching part" in traces(page)
    assert not any("bare" in name for name in traces(page))


def test_a_missing_picture_is_told_and_the_masks_still_show(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one")
    shutil.rmtree(run / "thumbnails")
    page = open_page(run)
    assert "picture" in page.warning[0].value
    assert len(tiles(page)) == 10


def test_a_broken_mask_is_an_error_on_the_page(make_run, open_page, tmp_path):
    run = make_run(tmp_path / "one")
    file = next((run / "masks").glob("*.parquet"))
    table = pq.read_table(file)
    counts = table.schema.get_field_index("counts")
    larger = [rle.encode(np.ones((500, 500), dtype=bool))] * len(table)
    pq.write_table(table.set_column(counts, table.schema.field(counts), [larger]), file)
    page = open_page(run)
    assert "masks" in page.error[0].value
    assert "one, matching part" in traces(page)


def test_runs_of_one_name_are_told_apart(make_run, open_page, tmp_path):
    first, second = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run", seed=2)
    page = open_page(first, second, first)
    assert len(traces(page)) == 3 + 2
    assert len(set(box(page, "Run").options)) == 2


def test_names_from_files_are_shown_as_they_are(make_run, open_page, tmp_path):
    hostile = [{"category_id": k, "name": "<b>*x*</b> $y$", "isthing": True} for k in (1, 2, 3)]
    page = open_page(make_run(tmp_path / "one", name="<i>run</i>", classes=hostile))
    assert "&lt;i&gt;run&lt;/i&gt;, matching part" in traces(page)
    for lines in tiles(page):
        assert lines[3].startswith(r"\<b\>\*x\*\<\/b\> \$y\$ ")
