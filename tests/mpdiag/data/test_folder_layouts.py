"""Data sets in the layouts that other tools write, opened by their folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpdiag.data import SegmentationDataset, load_dataset
from mpdiag.data.check import check_dataset
from mpdiag.data.problems import DataProblem
from mpdiag.errors import DataError

HEIGHT, WIDTH = 20, 30
BOXES = {"a": [(2, 3, 8, 9), (10, 5, 18, 25)], "b": [(0, 20, 6, 30)]}  # y0, x0, y1, x1
LABELS = {"a": [1, 0], "b": [1]}
NAMES = ("cell", "dust")

Write = Callable[[Path, str], None]


def mask(box: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH), dtype=bool)
    pixels[box[0] : box[2], box[1] : box[3]] = True
    return pixels


def save_image(path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, path.stem))
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def save_map(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def corners(box: tuple[int, int, int, int]) -> list[int]:
    y0, x0, y1, x1 = box
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def coco_content(categories: list[dict[str, Any]]) -> dict[str, Any]:
    images, annotations = [], []
    for number, name in enumerate(BOXES, 1):
        size = {"height": HEIGHT, "width": WIDTH}
        images.append({"id": number, "file_name": f"{name}.png", **size})
        for box, label in zip(BOXES[name], LABELS[name], strict=True):
            entry = {"image_id": number, "category_id": label + 1, "iscrowd": 0}
            entry |= {"id": len(annotations) + 1, "segmentation": [corners(box)]}
            annotations.append(entry)
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def categories() -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]


def coco_folder(images: str) -> Write:
    def write(folder: Path, split: str) -> None:
        write_json(folder / "annotations" / f"instances_{split}.json", coco_content(categories()))
        for name in BOXES:
            save_image(folder / images.format(split=split) / f"{name}.png")

    return write


def roboflow(folder: Path, split: str) -> None:
    own = folder / {"val": "valid"}.get(split, split)
    group = {"id": 0, "name": "things", "supercategory": "none"}
    listed = [group, *({**entry, "supercategory": "things"} for entry in categories())]
    write_json(own / "_annotations.coco.json", coco_content(listed))
    for name in BOXES:
        save_image(own / f"{name}.png")


def yolo(folder: Path, split: str) -> None:
    own = {"val": "valid"}.get(split, split)
    folder.mkdir(exist_ok=True)
    (folder / "data.yaml").write_text(
        "path: /elsewhere\ntrain: ../train/images\nval: ../valid/images\nnc: 2\n"
        f"names: [{', '.join(NAMES)}]\n"
    )
    for name in BOXES:
        save_image(folder / own / "images" / f"{name}.png")
        lines = []
        for box, label in zip(BOXES[name], LABELS[name], strict=True):
            shares = np.array(corners(box)) / np.array([WIDTH, HEIGHT] * 4)
            lines.append(" ".join(map(str, [label, *shares])))
        labels = folder / own / "labels" / f"{name}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("\n".join(lines) + "\n\n")


def image_folder(folder: Path, split: str) -> None:
    own = folder / {"val": "validation"}.get(split, split)
    lines = []
    for name in BOXES:
        save_image(own / f"{name}.png")
        pixels = np.zeros((HEIGHT, WIDTH, 3))
        for number, (box, label) in enumerate(zip(BOXES[name], LABELS[name], strict=True), 1):
            pixels[mask(box)] = label + 1, number, 0
        save_map(own / "maps" / f"{name}.png", pixels)
        entry = {"file_name": f"{name}.png", "annotation_file_name": f"maps/{name}.png"}
        lines.append(json.dumps(entry))
    (own / "metadata.jsonl").write_text("\n".join(lines))
    write_json(folder / "id2label.json", {"0": "background", "2": NAMES[1], "1": NAMES[0]})


def mask_per_object(layout: str) -> Write:
    def write(folder: Path, split: str) -> None:
        for name in BOXES:
            image, masks = (part.format(split=split, name=name) for part in layout.split())
            save_image(folder / image / f"{name}.png")
            for number, box in enumerate(BOXES[name]):
                save_map(folder / masks / f"{number}.png", mask(box) * 255)

    return write


BY_IMAGE, BY_SPLIT = (
    "{split}/{name}/images {split}/{name}/masks",
    "{split}/images {split}/masks/{name}",
)
LAYOUTS = {
    "coco": coco_folder("{split}"),
    "coco with images/SPLIT": coco_folder("images/{split}"),
    "coco with SPLIT2017": coco_folder("{split}2017"),
    "coco with images": coco_folder("images"),
    "roboflow": roboflow,
    "yolo": yolo,
    "image folder": image_folder,
    "masks by image": mask_per_object(BY_IMAGE),
    "masks by split": mask_per_object(BY_SPLIT),
}


def folder_with(layout: str, path: Path, splits: tuple[str, ...] = ("train", "val")) -> Path:
    for split in splits:
        LAYOUTS[layout](path / "own", split)
    return path / "own"


def found(dataset: SegmentationDataset, index: int) -> set[tuple[str, bytes]]:
    """Return class name and mask of each object."""
    sample = dataset[index]
    pairs = zip(sample.labels.tolist(), sample.masks.numpy(), strict=True)
    return {(dataset.classes[label].name, pixels.tobytes()) for label, pixels in pairs}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_images_and_objects(layout: str, split: str, tmp_path: Path) -> None:
    folder = folder_with(layout, tmp_path)
    dataset = load_dataset(str(folder), split=split)
    one_class = layout.startswith("masks")
    assert [info.name for info in dataset.classes] == (["object"] if one_class else list(NAMES))
    assert (dataset.name, dataset.split, dataset.image_ids) == ("own", split, [1, 2])
    for index, name in enumerate(BOXES):
        assert Path(dataset.file_name(index)).stem == name
        expected = {
            ("object" if one_class else NAMES[label], mask(box).tobytes())
            for box, label in zip(BOXES[name], LABELS[name], strict=True)
        }
        assert found(dataset, index) == expected
        pixels = np.array(Image.open(dataset.image_root / dataset.file_name(index)))
        assert np.array_equal(dataset.image(index).permute(1, 2, 0).numpy(), pixels)
    with pytest.raises(DataError):
        load_dataset(str(folder), split="test")


def test_folders_named_training_and_validation(tmp_path: Path) -> None:
    """ADE20K has images/training too, and Mapillary Vistas training/images."""
    for split in ("training", "validation"):
        LAYOUTS["masks by split"](tmp_path / "masks", split)
        LAYOUTS["yolo"](tmp_path / "yolo", split)
        for kind in ("images", "labels"):
            target = tmp_path / "yolo" / kind
            target.mkdir(exist_ok=True)
            (tmp_path / "yolo" / split / kind).rename(target / split)
    listed = f"train: images/training\nval: images/validation\nnames: [{', '.join(NAMES)}]\n"
    (tmp_path / "yolo" / "data.yaml").write_text(listed)
    for name in ("masks", "yolo"):
        dataset = load_dataset(str(tmp_path / name), split="train")
        assert len(dataset) == len(BOXES) and dataset.name == name


@pytest.mark.parametrize("layout", ["roboflow", "yolo", "image folder", "masks by image"])
def test_other_tasks_are_refused(layout: str, tmp_path: Path) -> None:
    folder = folder_with(layout, tmp_path)
    with pytest.raises(DataError, match="choose task instance, not panoptic"):
        load_dataset(str(folder), task="panoptic")


@pytest.mark.parametrize("layout", ["yolo", "masks by image"])
def test_masks_of_an_image_that_exif_rotates(layout: str, tmp_path: Path) -> None:
    """Annotations are those of the image as displayed: here, stored as 30 x 20."""
    folder = folder_with(layout, tmp_path, ("train",))
    path = next(folder.rglob("a.png"))
    pixels = Image.open(path)
    exif = Image.Exif()
    exif[0x0112] = 6  # display rotates by 270 degrees counter-clockwise
    stored = pixels.transpose(Image.Transpose.ROTATE_90)
    stored.save(path, exif=exif)
    sample = load_dataset(str(folder), split="train")[0]
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), np.array(pixels))
    assert {pixels.numpy().tobytes() for pixels in sample.masks} == {
        mask(box).tobytes() for box in BOXES["a"]
    }


def test_annotated_group_of_roboflow_is_a_problem(tmp_path: Path) -> None:
    folder = folder_with("roboflow", tmp_path)
    path = folder / "train" / "_annotations.coco.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 0
    write_json(path, content)
    with pytest.raises(DataProblem, match="annotation 1 has category 0"):
        load_dataset(str(folder), split="train")


def test_yolo_image_without_label_file_has_no_objects(tmp_path: Path) -> None:
    folder = folder_with("yolo", tmp_path)
    (folder / "train" / "labels" / "a.txt").unlink()
    assert found(load_dataset(str(folder), split="train"), 0) == set()


def test_labels_of_yolo_from_windows_and_with_fractions(tmp_path: Path) -> None:
    folder = folder_with("yolo", tmp_path)
    expected = found(load_dataset(str(folder), split="train"), 1)
    path = folder / "train" / "labels" / "b.txt"
    lines = [line.replace(" ", ".0 ", 1) for line in path.read_text().splitlines()]
    path.write_text("\r\n".join(lines), encoding="utf-8-sig")
    assert found(load_dataset(str(folder), split="train"), 1) == expected != set()


def test_images_of_any_format_are_found(tmp_path: Path) -> None:
    folder = folder_with("yolo", tmp_path)
    path = next((folder / "train").rglob("a.png"))
    Image.open(path).save(path.with_suffix(".gif"))
    path.unlink()
    assert len(load_dataset(str(folder), split="train")) == len(BOXES)


def test_file_of_roboflow_has_the_classes_of_its_folder(tmp_path: Path) -> None:
    folder = folder_with("roboflow", tmp_path)
    dataset = load_dataset(str(folder / "train" / "_annotations.coco.json"))
    assert dataset.classes == load_dataset(str(folder), split="train").classes
    assert found(dataset, 0) == found(load_dataset(str(folder), split="train"), 0)


def test_coco_images_in_valid(tmp_path: Path) -> None:
    LAYOUTS["coco"](tmp_path / "own", "val")
    (tmp_path / "own" / "val").rename(tmp_path / "own" / "valid")
    assert len(load_dataset(str(tmp_path / "own"))) == len(BOXES)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.1 0.1 0.5 0.5", "line 2 has a box"),
        ("2 0 0 1 0 1 1", "line 2 has class 2 of 2"),
        ("x 0 0 1 0 1 1", "line 2 has values that are not numbers"),
        ("0 0 0 1 0 1", "line 2 has a polygon with fewer than three"),
        ("0 nan 0 1 0 1 1", "line 2 has a polygon far outside"),
        ("0 1e99 0 1 0 1 1", "line 2 has a polygon far outside"),
        (f"{'9' * 5000} 0 0 1 0 1 1", "line 2 has class inf, which is no whole number"),
        ("0.5 0 0 1 0 1 1", r"line 2 has class 0\.5, which is no whole number"),
    ],
)
def test_invalid_line_of_yolo(line: str, message: str, tmp_path: Path) -> None:
    folder = folder_with("yolo", tmp_path)
    path = folder / "train" / "labels" / "b.txt"
    path.write_text(path.read_text().strip() + "\n" + line)
    with pytest.raises(DataProblem, match=rf"b\.txt: {message}"):
        load_dataset(str(folder), split="train").ground_truth(1)
    problems: list[DataProblem] = []
    dataset = load_dataset(str(folder), split="train", on_problem=problems.append)
    assert len(dataset.ground_truth(1).labels) == 1 and len(problems) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: train/images", "has no class names"),
        ("names: [a]\ntrain: 3", "has no images of split train"),
        ("names: [a]\ntrain: ../../etc", r"\.\./\.\./etc of split train is no folder"),
        ("names: [a]\ntrain: /etc", "/etc of split train is no folder"),
        ("[1]", "is no mapping"),
        ("names: {0: a, 2: b}\ntrain: train/images", "has no class names"),
        ("a: &a [x]\nb: [*a", "cannot be read"),
    ],
)
def test_invalid_data_yaml(content: str, message: str, tmp_path: Path) -> None:
    folder = folder_with("yolo", tmp_path)
    (folder / "data.yaml").write_text(content)
    with pytest.raises(DataError, match=rf"data\.yaml: {message}"):
        load_dataset(str(folder), split="train")


def test_yolo_lists_of_folders_and_names_by_index(tmp_path: Path) -> None:
    folder = folder_with("yolo", tmp_path)
    text = "path: .\nnames: {1: dust, 0: cell}\ntrain: [train/images, valid/images]\n"
    (folder / "data.yaml").write_text(text)
    dataset = load_dataset(str(folder), split="train")
    assert len(dataset) == 4 and [info.name for info in dataset.classes] == list(NAMES)
    assert found(dataset, 0) == found(dataset, 2)


def test_instance_maps_without_classes(tmp_path: Path) -> None:
    folder = folder_with("image folder", tmp_path)
    (folder / "id2label.json").unlink()
    pixels = np.zeros((HEIGHT, WIDTH))
    for number, box in enumerate(BOXES["a"], 7):
        pixels[mask(box)] = number
    save_map(folder / "train" / "maps" / "a.png", pixels)
    dataset = load_dataset(str(folder), split="train")
    assert found(dataset, 0) == {("object", mask(box).tobytes()) for box in BOXES["a"]}
    with pytest.raises(DataProblem, match="3 channels"):
        dataset.ground_truth(1)


def test_missing_map_is_reported_beside_a_missing_image(tmp_path: Path) -> None:
    folder = folder_with("image folder", tmp_path)
    (folder / "train" / "a.png").unlink()
    (folder / "train" / "maps" / "b.png").unlink()
    missing = check_dataset(str(folder), split="train").errors["missing file"]
    assert missing.count == 2
    assert "maps/b.png" in missing.examples[0] and "a.png" in missing.examples[1]


def test_class_that_id2label_lacks(tmp_path: Path) -> None:
    folder = folder_with("image folder", tmp_path)
    write_json(folder / "id2label.json", {"1": "cell"})
    with pytest.raises(DataProblem, match=r"maps/a\.png: has class 2, which id2label\.json"):
        load_dataset(str(folder), split="train").ground_truth(0)


@pytest.mark.parametrize("number", ["256", "-1", "9" * 30])
def test_class_id_that_no_map_can_have(number: str, tmp_path: Path) -> None:
    folder = folder_with("image folder", tmp_path)
    write_json(folder / "id2label.json", {"1": "cell", number: "dust"})
    with pytest.raises(DataError, match=r"id2label\.json: .*class id is not in 0\.\.255"):
        load_dataset(str(folder), split="train")
    write_json(folder / "id2label.json", {"1": "cell", "2": "dust", "255": "void"})
    assert len(load_dataset(str(folder), split="train").classes) == 3


def test_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    folder = folder_with("yolo", tmp_path)
    name = os.fsdecode(b"\xff.png")
    (folder / "train/images/a.png").rename(folder / "train/images" / name)
    with pytest.raises(DataProblem, match=r"train/images/.*png: is not UTF-8; rename the file"):
        load_dataset(str(folder), split="train")
    found = check_dataset(str(folder), split="train").errors["invalid file name"]
    assert found.count == 1 and found.examples[0].isprintable()


@pytest.mark.parametrize(
    "line",
    [
        '{"file_name": "a.png"}',
        '{"file_name": "a.png", "mask_file_name": "../a.png"}',
        '{"file_name": "/etc/passwd", "mask_file_name": "a.png"}',
        '{"file_name": "a.png", "mask_file_name": 3}',
        '{"file_name": ".", "mask_file_name": "a.png"}',
        "[1]",
        "{",
    ],
)
def test_invalid_metadata(line: str, tmp_path: Path) -> None:
    folder = folder_with("image folder", tmp_path)
    (folder / "train" / "metadata.jsonl").write_text(line)
    with pytest.raises(DataError, match=r"metadata\.jsonl: cannot be read"):
        load_dataset(str(folder), split="train")


def test_mask_of_another_size(tmp_path: Path) -> None:
    folder = folder_with("masks by image", tmp_path)
    save_map(folder / "train" / "a" / "masks" / "1.png", np.ones((5, 5)))
    with pytest.raises(DataProblem, match=r"1\.png: is 5 x 5 .* is 20 x 30"):
        load_dataset(str(folder), split="train").ground_truth(0)


def test_pipe_in_place_of_a_file(tmp_path: Path) -> None:
    folder = folder_with("yolo", tmp_path)
    label = folder / "train" / "labels" / "a.txt"
    label.unlink()
    os.mkfifo(label)
    with pytest.raises(DataProblem, match="not a regular file"):
        load_dataset(str(folder), split="train").ground_truth(0)
    (folder / "data.yaml").unlink()
    os.mkfifo(folder / "data.yaml")
    with pytest.raises(DataError, match="not a regular file"):
        load_dataset(str(folder), split="train")


def test_images_of_one_file_in_two_folders(tmp_path: Path) -> None:
    folder = folder_with("coco", tmp_path, ("train",))
    (folder / "train" / "b.png").rename(folder / "annotations" / "b.png")
    dataset = load_dataset(
        str(folder / "annotations" / "instances_train.json"), root=folder / "train"
    )
    assert dataset.image_root == folder
    assert [dataset.file_name(k) for k in range(2)] == ["train/a.png", "annotations/b.png"]
    assert len(found(dataset, 1)) == 1
