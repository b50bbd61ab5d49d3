import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from mpdiag.data import ClassInfo, coco_dataset
from mpdiag.errors import DataError

Files = Callable[..., tuple[Path, Path]]


def test_masks_equal_pycocotools(coco: Files) -> None:
    path, folder = coco()
    dataset = coco_dataset(path, folder)
    with contextlib.redirect_stdout(io.StringIO()):
        peer = COCO(str(path))
    assert dataset.image_ids == [7, 3, 5]
    for index, image_id in enumerate(dataset.image_ids):
        sample = dataset[index]
        annotations = peer.loadAnns(peer.getAnnIds(image_id, iscrowd=False))
        expected = [(peer.annToMask(a), a["category_id"]) for a in annotations]
        expected = [(mask, category) for mask, category in expected if mask.any()]
        assert sample.image_id == image_id
        assert sample.masks.dtype == torch.bool
        assert sample.masks.shape == (len(expected), 20, 30)
        assert [dataset.classes[k].category_id for k in sample.labels] == [c for _, c in expected]
        for mask, (truth, _) in zip(sample.masks.numpy(), expected, strict=True):
            np.testing.assert_array_equal(mask, truth.astype(bool))


def test_labels_follow_category_ids(coco: Files) -> None:
    dataset = coco_dataset(*coco())
    assert dataset.classes == [ClassInfo(2, "car"), ClassInfo(9, "dog"), ClassInfo(40, "cup")]
    sample = dataset[0]
    # Annotations 11 to 14 in the order of the file; 15 is a crowd, 17 is empty.
    assert sample.labels.tolist() == [2, 0, 2, 1]
    assert sample.labels.dtype == torch.int64
    assert [dataset.num_objects(i) for i in range(3)] == [5, 0, 0]


def test_image_without_annotations(coco: Files) -> None:
    path, folder = coco()
    sample = coco_dataset(path, folder)[2]
    assert sample.masks.shape == (0, 20, 30)
    assert sample.labels.shape == (0,)
    assert sample.original_size == (20, 30)
    with Image.open(folder / "5.png") as image:
        np.testing.assert_array_equal(sample.image.permute(1, 2, 0).numpy(), np.array(image))


def test_index_out_of_range(coco: Files) -> None:
    dataset = coco_dataset(*coco())
    assert len(dataset) == 3
    assert dataset[-1].image_id == 5
    with pytest.raises(IndexError):
        dataset[3]


def test_gray_and_rotated_images_become_upright_rgb(coco: Files) -> None:
    path, folder = coco()
    Image.new("L", (30, 20), 77).save(folder / "3.png")
    sideways = np.zeros((30, 20, 3), dtype=np.uint8)  # stored rotated: 20 wide, 30 high
    sideways[:, :10] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees, clockwise
    Image.fromarray(sideways).save(folder / "5.png", exif=exif)
    dataset = coco_dataset(path, folder)
    assert torch.equal(dataset[1].image, torch.full((3, 20, 30), 77, dtype=torch.uint8))
    assert torch.equal(dataset[2].image[:, :10], torch.full((3, 10, 30), 200, dtype=torch.uint8))
    assert not dataset[2].image[:, 10:].any()


def test_panoptic_segments(panoptic: Files) -> None:
    path, folder = panoptic()
    dataset = coco_dataset(path, folder, task="panoptic")
    sample = dataset[0]
    assert dataset.classes == [
        ClassInfo(2, "car", True), ClassInfo(9, "dog", True), ClassInfo(120, "grass", False),
    ]  # fmt: skip
    assert sample.labels.tolist() == [0, 1, 2]
    assert dataset.num_objects(0) == 3
    # 5 x 7, 5 x 4, and the rest without the unlabelled strip (2 x 20) and the crowd (5 x 9).
    assert sample.masks.sum((1, 2)).tolist() == [35, 20, 600 - 40 - 45 - 35 - 20]
    assert sample.masks[0, 3:8, 5:12].all()
    assert sample.masks[1, 10:15, 5:9].all()
    assert not sample.masks[:, 10:15, 20:29].any()


def test_describe(coco: Files) -> None:
    path, folder = coco()
    description = coco_dataset(path, folder, name="mine", split="val").describe()
    assert description == {
        "name": "mine", "annotation_file": str(path), "image_root": str(folder), "split": "val",
        "task": "instance",
    }  # fmt: skip


def test_chooses_the_folder_with_the_images(coco: Files, tmp_path: Path) -> None:
    path, folder = coco()
    dataset = coco_dataset(path, [tmp_path, tmp_path / "absent", folder])
    assert dataset.image_root == folder


def test_images_in_subfolders(coco: Files) -> None:
    def move(content: dict[str, Any]) -> None:
        content["images"][0]["file_name"] = "deep/7.png"

    path, folder = coco(move)
    (folder / "deep").mkdir()
    (folder / "7.png").rename(folder / "deep" / "7.png")
    assert len(coco_dataset(path, folder)[0].masks) == 4


def message(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_missing_images_are_counted(coco: Files) -> None:
    path, folder = coco()
    (folder / "7.png").unlink()
    (folder / "5.png").unlink()
    text = message(lambda: coco_dataset(path, folder))
    assert "2 of 3 files" in text and "7.png" in text and str(folder) in text and str(path) in text


def test_missing_image_folder(coco: Files, tmp_path: Path) -> None:
    path, _ = coco()
    text = message(lambda: coco_dataset(path, tmp_path / "nowhere"))
    assert "3 of 3 files" in text and "7.png" in text and "nowhere" in text


def test_no_folder_has_the_images(coco: Files, tmp_path: Path) -> None:
    path, _ = coco()
    text = message(lambda: coco_dataset(path, [tmp_path / "one", tmp_path / "two"]))
    assert str(path) in text and "one" in text and "two" in text


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "cut short"])
def test_corrupt_image(coco: Files, content: bytes | None) -> None:
    path, folder = coco()
    whole = (folder / "7.png").read_bytes()
    (folder / "7.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    dataset = coco_dataset(path, folder)
    assert str(folder / "7.png") in message(lambda: dataset[0])


def test_image_of_another_size(coco: Files) -> None:
    path, folder = coco()
    Image.new("RGB", (31, 20)).save(folder / "7.png")
    text = message(lambda: coco_dataset(path, folder)[0])
    assert str(folder / "7.png") in text and "20 x 31" in text and "20 x 30" in text


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[]],
        [[1, 1, 5, 5]],
        [[1, 1, 5, 5, 3]],
        [[1, 1, 5, 5, 3, "x"]],
        [[1, 1, 5, 5, 3, float("nan")]],
        [[1, 1, 5, 5, 3, 1e12]],
        [1, 1, 5, 5, 3, 9],
        "polygon",
        {"size": [20, 30]},
        {"size": [30, 20], "counts": [600]},
        {"size": [20, 30], "counts": [599]},
        {"size": [20, 30], "counts": [700, -100]},
        {"size": [20, 30], "counts": "0"},
        {"size": [20, 30], "counts": "P"},
        {"size": [20, 30], "counts": "a b"},
        {"size": [20, 30], "counts": ""},
        {"size": [20, 30], "counts": None},
    ],
)
def test_degenerate_segmentation(coco: Files, segmentation: Any) -> None:
    def damage(content: dict[str, Any]) -> None:
        content["annotations"][1]["segmentation"] = segmentation

    path, folder = coco(damage)
    dataset = coco_dataset(path, folder)
    text = message(lambda: dataset[0])
    assert "annotation 12" in text and "7.png" in text and str(path) in text
    assert len(dataset[2].masks) == 0


def test_panoptic_png_of_another_size(panoptic: Files) -> None:
    path, folder = panoptic()
    Image.new("RGB", (9, 9)).save(path.with_suffix("") / "1.png")
    text = message(lambda: coco_dataset(path, folder, task="panoptic")[0])
    assert str(path.with_suffix("") / "1.png") in text


def test_panoptic_png_missing(panoptic: Files) -> None:
    path, folder = panoptic()
    (path.with_suffix("") / "1.png").unlink()
    assert "1.png" in message(lambda: coco_dataset(path, folder, task="panoptic"))


def test_panoptic_png_and_json_disagree(panoptic: Files) -> None:
    path, folder = panoptic(lambda content: content["annotations"][0]["segments_info"].pop(1))
    text = message(lambda: coco_dataset(path, folder, task="panoptic")[0])
    assert "segment 300 of image 1.jpg" in text
    assert text.startswith(str(path.with_suffix("") / "1.png"))
    assert f"which {path} does not list" in text


def test_empty_panoptic_segment(panoptic: Files) -> None:
    def extend(content: dict[str, Any]) -> None:
        content["annotations"][0]["segments_info"].append({"id": 4711, "category_id": 2})

    dataset = coco_dataset(*panoptic(extend), task="panoptic")
    assert dataset.ground_truth(0).areas.tolist() == [35, 20, 45, 460, 0]
    assert dataset[0].labels.tolist() == [0, 1, 2]


def test_panoptic_pngs_one_folder_up(panoptic: Files) -> None:
    """The layout of Mask2Former: coco/annotations/*.json, coco/panoptic_*/."""
    path, folder = panoptic()
    moved = path.parent / "annotations" / path.name
    moved.parent.mkdir()
    path.rename(moved)
    assert len(coco_dataset(moved, folder, task="panoptic")[0].masks) == 3


def test_ground_truth_includes_crowds_and_empty_segments(coco: Files) -> None:
    def measure(content: dict[str, Any]) -> None:
        for number, annotation in enumerate(content["annotations"]):
            annotation["area"] = 10.5 * number
        del content["annotations"][1]["area"]

    path, folder = coco(measure)
    with contextlib.redirect_stdout(io.StringIO()):
        peer = COCO(str(path))
    truth = coco_dataset(path, folder).ground_truth(0)
    annotations = peer.loadAnns(peer.getAnnIds(7))
    masks = np.stack([peer.annToMask(annotation) for annotation in annotations])
    np.testing.assert_array_equal(truth.masks.numpy(), masks.astype(bool))
    assert not truth.masks[-1].any()
    assert truth.crowd.tolist() == [False, False, False, False, True, False]
    assert truth.labels.tolist() == [2, 0, 2, 1, 0, 1]
    # From the annotations, or counted if they have none; 16 belongs to another image.
    assert truth.areas.tolist() == [0.0, float(masks[1].sum()), 21.0, 31.5, 42.0, 63.0]
    assert truth.areas.dtype == torch.float64


def test_semantic_from_panoptic(panoptic: Files) -> None:
    dataset = coco_dataset(*panoptic(), task="semantic")
    assert dataset.task == "semantic" and dataset.num_objects(0) == 3
    sample = dataset[0]
    assert sample.labels.tolist() == [0, 1, 2]  # car, dog with its crowd, grass
    assert sample.masks.sum((1, 2)).tolist() == [35, 20 + 45, 600 - 40 - 45 - 35 - 20]
    assert sample.masks[1, 10:15, 20:29].all() and not sample.masks[:, :, :2].any()
    assert not dataset.ground_truth(0).crowd.any()


def test_semantic_needs_panoptic_annotations(coco: Files) -> None:
    path, folder = coco()
    assert "instance annotations" in message(lambda: coco_dataset(path, folder, task="semantic"))


def test_default_task_is_that_of_the_file(coco: Files, panoptic: Files) -> None:
    assert coco_dataset(*coco(), task=None).task == "instance"
    assert coco_dataset(*panoptic(), task=None).task == "panoptic"


def test_reading_does_not_need_the_json(coco: Files) -> None:
    """Records are copied, so later reads do not depend on the JSON file."""
    path, folder = coco()
    dataset = coco_dataset(path, folder)
    before = dataset[0]
    path.write_text(json.dumps({}))
    assert torch.equal(dataset[0].masks, before.masks)
