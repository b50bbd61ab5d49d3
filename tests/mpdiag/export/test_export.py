"""Export of a run's detections, read back by pycocotools and by FiftyOne's description."""

import base64
import io
import json
import zlib
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mpdiag import rle
from mpdiag.errors import OutputError, RunError
from mpdiag.export import export_coco, export_fiftyone
from mpdiag.export.detections import detected_images
from mpdiag.store import Run

LAYER = "layer-09.json"


@pytest.fixture(scope="module")
def run(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 4 images, of which the first has no GT, with detections of the last layer."""
    folder = tmp_path_factory.mktemp("export")
    for image_id in range(1, 5):
        Image.new("RGB", (128, 96)).save(folder / f"{image_id:06d}.jpg")
    dataset = {"name": "synthetic", "image_root": str(folder), "split": "val"}
    return Run.open(make_run(folder / "run", dataset=dataset))


def expected_masks(run: Run) -> dict[tuple[int, int], Any]:
    """Return the masks of the last layer by image and query, from the table `masks`.

    A cell is 4 x 4 pixels. Empty masks are left out.
    """
    rows = duckdb.sql(
        f"SELECT image_id, index, height, width, counts FROM '{run.path}/masks/*.parquet' "
        "WHERE kind = 'query' AND layer = 9"
    ).fetchall()
    masks = {
        (image, query): np.kron(
            coco_mask.decode({"size": [height, width], "counts": counts}), np.ones((4, 4), np.uint8)
        )
        for image, query, height, width, counts in rows
    }
    return {key: mask for key, mask in masks.items() if mask.any()}


def test_detections_are_read_in_blocks_of_bounded_size(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(detected_images(run, [9]))
    sizes = run.query("SELECT sum(octet_length(counts)) AS size FROM detections GROUP BY image_id")
    monkeypatch.setattr(rle, "MAX_BYTES", int(sizes["size"].max()))
    assert list(detected_images(run, [9])) == expected and len(expected) == 4
    monkeypatch.setattr(rle, "MAX_BYTES", int(sizes["size"].max()) - 1)
    with pytest.raises(RunError, match=r"detections: the masks of image \d are too large"):
        next(detected_images(run, [9]))


def test_coco_results_load_in_pycocotools_and_score_as_the_masks_do(
    run: Run, tmp_path: Path
) -> None:
    assert export_coco(run, tmp_path / "coco") == [tmp_path / "coco" / LAYER]
    masks = expected_masks(run)
    # The masks themselves are the ground truth, so AP is 1.
    truth = {
        "images": [{"id": number, "height": 96, "width": 128} for number in range(1, 5)],
        "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": 1,
                "iscrowd": 0,
                "area": float(mask.sum()),
                "segmentation": encode(mask),
            }
            for number, ((image, _), mask) in enumerate(masks.items(), 1)
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(tmp_path / "truth.json"))
        loaded = ground_truth.loadRes(str(tmp_path / "coco" / LAYER))
        evaluation = COCOeval(ground_truth, loaded, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found = {(ann["image_id"], ann["query"]): ann for ann in loaded.dataset["annotations"]}
    assert found.keys() == masks.keys()
    for key, mask in masks.items():
        np.testing.assert_array_equal(loaded.annToMask(found[key]), mask)
        assert found[key]["bbox"] == coco_mask.toBbox(encode(mask)).tolist()
    assert evaluation.stats[0] == 1.0


def encode(mask: Any) -> Any:
    encoded = coco_mask.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def test_fiftyone_dataset_has_one_field_per_layer(run: Run, tmp_path: Path) -> None:
    """The form was read back with fiftyone 1.22; here by its description."""
    assert export_fiftyone(run, tmp_path / "fo") == [tmp_path / "fo"]
    metadata = json.loads((tmp_path / "fo" / "metadata.json").read_text())
    assert "version" not in metadata  # with one, FiftyOne expects documents of its database
    assert metadata["info"]["classes"] == ["disc", "square", "star"]
    samples = json.loads((tmp_path / "fo" / "samples.json").read_text())["samples"]
    assert [Path(sample["filepath"]).name for sample in samples] == [
        f"{image_id:06d}.jpg" for image_id in range(1, 5)
    ]
    masks = expected_masks(run)
    found = {}
    for sample in samples:
        assert Path(sample["filepath"]).is_file()
        assert sample["layer_09"]["_cls"] == "Detections"
        for label in sample["layer_09"]["detections"]:
            whole = np.zeros((96, 128), dtype=np.bool_)
            crop = np.load(io.BytesIO(zlib.decompress(base64.b64decode(label["mask"]))))
            x, y = round(label["bounding_box"][0] * 128), round(label["bounding_box"][1] * 96)
            assert label["bounding_box"][2:] == [crop.shape[1] / 128, crop.shape[0] / 96]
            whole[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
            found[sample["image_id"], label["query"]] = whole
            assert label["label"] == "disc"
    assert found.keys() == masks.keys()
    for key, mask in masks.items():
        np.testing.assert_array_equal(found[key], mask)


def test_errors_name_the_cause(
    run: Run,
    make_run: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OutputError, match="full: is not empty"):
        export_coco(run, tmp_path / "full")
    broken = make_run(tmp_path / "broken", images=2)
    with pytest.raises(RunError, match=r"image 1, 000001\.jpg, is not in synthetic/val"):
        export_fiftyone(Run.open(broken), tmp_path / "fo")
    duckdb.sql(f"FROM '{broken}/detections/*.parquet'").to_df().assign(label=7).to_parquet(
        next((broken / "detections").iterdir())
    )
    with pytest.raises(RunError, match=r"image 1 is invalid \(the run has no class 7"):
        export_coco(Run.open(broken), tmp_path / "coco")
    assert list((tmp_path / "coco").iterdir()) == []
    (file,) = (broken / "detections").iterdir()
    table = pq.read_table(file)
    place = table.schema.get_field_index("counts")
    pq.write_table(table.set_column(place, "counts", pa.nulls(len(table), pa.binary())), file)
    for export in (export_coco, export_fiftyone):
        with monkeypatch.context() as context:
            context.setattr(Run, "image_files", lambda run: {1: Path("file")})
            with pytest.raises(RunError, match="image 1 is invalid"):
                export(Run.open(broken), tmp_path / "coco")
        assert list((tmp_path / "coco").iterdir()) == []
    for file in (broken / "detections").iterdir():
        file.unlink()
    with pytest.raises(RunError, match="has no detections; analyse the matching part"):
        export_coco(Run.open(broken), tmp_path / "none")
