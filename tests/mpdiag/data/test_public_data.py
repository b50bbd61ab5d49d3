"""Public data sets from small trees with the layout of their repositories."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpdiag.commands.data import data_app
from mpdiag.data import load_dataset
from mpdiag.data.public_data import prepare_public
from mpdiag.errors import DataError


def photo(path: Path, width: int, height: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 4), dtype=np.uint8)
    Image.fromarray(pixels[..., : len(mode)]).save(path)


@pytest.fixture
def facade(tmp_path: Path) -> Path:
    """Clone with one training image, two validation images, and an unused class."""
    clone = tmp_path / "clone"
    photo(clone / "train" / "b.jpg", 1024, 768)
    photo(clone / "valid" / "z.jpg", 400, 300)
    photo(clone / "valid" / "images" / "a.jpg", 1024, 1024)
    categories = [{"id": i, "name": name} for i, name in enumerate(["all", "roof", "window"])]
    square = [100, 100, 300, 100, 300, 300, 100, 300]
    entries = [
        # image, category, polygons
        (0, 2, [square]),
        (0, 1, [square, [600, 600, 700, 600, 700, 700]]),
        (0, 2, [[10, 10, 12, 10, 12, 12]]),  # below 4 pixels after resizing
    ]

    def write(folder: str, images: list[tuple[str, int, int]], chosen: list[tuple]) -> None:
        content = {
            "images": [
                {"id": i, "file_name": name, "width": w, "height": h}
                for i, (name, w, h) in enumerate(images)
            ],
            "categories": categories,
            "annotations": [
                {"id": i, "image_id": image, "category_id": category, "segmentation": polygons,
                 "area": 1, "bbox": [0, 0, 1, 1], "iscrowd": 0}
                for i, (image, category, polygons) in enumerate(chosen)
            ],
        }  # fmt: skip
        (clone / folder / "_annotations.coco.json").write_text(json.dumps(content))

    write("train", [("b.jpg", 1024, 768)], entries)
    write("valid", [("z.jpg", 400, 300), ("a.jpg", 1024, 1024)], [(0, 2, [square])])
    return clone


def test_facade(facade: Path, tmp_path: Path) -> None:
    output = prepare_public("facade", facade, tmp_path / "facade")
    train, val = (load_dataset(str(output), split=split) for split in ("train", "val"))
    assert [info.name for info in train.classes] == ["roof", "window"] and len(train) == 1
    assert [info.category_id for info in val.classes] == [1, 2]
    assert train[0].image.shape == (3, 384, 512)
    assert train[0].labels.tolist() == [1, 0]
    window, roof = train[0].masks
    expected = np.zeros((384, 512), bool)
    expected[50:150, 50:150] = True
    assert (window.numpy() ^ expected).sum() <= 400  # a border of one pixel
    assert roof[320, 340] and not roof[340, 320]
    # In the order of the names; smaller images keep their size.
    assert [val[i].image.shape[1:] for i in range(2)] == [(512, 512), (300, 400)]
    assert [len(val[i].labels) for i in range(2)] == [0, 1]
    content = json.loads((output / "annotations" / "instances_val.json").read_text())
    polygon = [100.0, 100.0, 300.0, 100.0, 300.0, 300.0, 100.0, 300.0]
    assert [entry["segmentation"] for entry in content["annotations"]] == [[polygon]]


def test_image_of_one_column(facade: Path, tmp_path: Path) -> None:
    """Its width is not reduced to 0 pixels."""
    path = facade / "train/_annotations.coco.json"
    content = json.loads(path.read_text())
    content["images"][0].update(width=1, height=2000)
    path.write_text(json.dumps(content | {"annotations": []}))
    photo(facade / "train/b.jpg", 1, 2000)
    output = prepare_public("facade", facade, tmp_path / "facade")
    with Image.open(output / "train/000001.jpg") as image:
        assert image.size == (1, 512)


def test_image_that_links_out_of_the_clone(facade: Path, tmp_path: Path) -> None:
    image = facade / "train" / "b.jpg"
    image.rename(facade / "train" / "original.jpg")
    image.symlink_to("original.jpg")
    prepare_public("facade", facade, tmp_path / "inside")
    (facade / "train" / "original.jpg").rename(tmp_path / "private.jpg")
    image.unlink()
    image.symlink_to(tmp_path / "private.jpg")
    with pytest.raises(DataError, match=r"b\.jpg: links to a file outside of the clone"):
        prepare_public("facade", facade, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    image.unlink()
    image.symlink_to(image.name)
    with pytest.raises(DataError, match=r"b\.jpg"):
        prepare_public("facade", facade, tmp_path / "out")


def image_id_with(remainder: int) -> str:
    """Return an id of the split that its hash selects."""
    ids = (f"image{number}" for number in range(1000))
    return next(i for i in ids if int(hashlib.sha256(i.encode()).hexdigest(), 16) % 8 == remainder)


@pytest.fixture
def nuclei(tmp_path: Path) -> Path:
    clone = tmp_path / "clone"
    for remainder, size in ((0, (64, 64)), (1, (768, 512)), (5, (64, 48))):
        name = image_id_with(remainder)
        folder = clone / "stage1_train" / name
        photo(folder / "images" / f"{name}.png", *size, mode="RGBA")
        (folder / "masks").mkdir()
        mask = np.zeros(size[::-1], np.uint8)
        mask[10:20, 10:30] = 255
        Image.fromarray(mask).save(folder / "masks" / "b.png")
        mask[:] = 0
        mask[30, 40:43] = 255  # three pixels
        Image.fromarray(mask).save(folder / "masks" / "a.png")
    return clone


def test_nuclei(nuclei: Path, tmp_path: Path) -> None:
    output = prepare_public("nuclei", nuclei, tmp_path / "nuclei")
    train, val = (load_dataset(str(output), split=split) for split in ("train", "val"))
    assert len(train) == len(val) == 1 and [info.name for info in val.classes] == ["nucleus"]
    assert val[0].image.shape == (3, 256, 384) and train[0].image.shape == (3, 48, 64)
    for sample, factor in ((train[0], 1), (val[0], 2)):
        expected = np.zeros(sample.masks.shape[1:], bool)
        expected[10 // factor : 20 // factor, 10 // factor : 30 // factor] = True
        assert len(sample.masks) == 1
        np.testing.assert_array_equal(sample.masks[0].numpy(), expected)


def test_nuclei_in_a_folder_whose_name_is_not_utf8(nuclei: Path, tmp_path: Path) -> None:
    folder = nuclei / "stage1_train" / image_id_with(5)
    name = os.fsdecode(b"image\xfe")
    (folder / "images" / f"{folder.name}.png").rename(folder / "images" / f"{name}.png")
    folder.rename(folder.with_name(name))
    output = prepare_public("nuclei", nuclei, tmp_path / "nuclei")
    assert len(load_dataset(str(output), split="train")) == 1  # its hash modulo 8 is 3


def test_missing_and_broken_files(facade: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cats: unknown data set; choose from facade, nuclei"):
        prepare_public("cats", facade, tmp_path / "out")
    with pytest.raises(DataError, match=r"no such folder; clone https://github\.com/lopuhin"):
        prepare_public("nuclei", tmp_path / "none", tmp_path / "out")
    with pytest.raises(DataError, match=r"stage1_train: not found .*clone https://github\.com/"):
        prepare_public("nuclei", facade, tmp_path / "out")
    (facade / "valid" / "images" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg: file not found"):
        prepare_public("facade", facade, tmp_path / "out")
    path = facade / "train" / "_annotations.coco.json"
    path.write_text(path.read_text().replace("[[10, 10, 12, 10, 12, 12]]", '[["ten", 10]]'))
    with pytest.raises(DataError, match="annotation 2 has no valid polygons"):
        prepare_public("facade", facade, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_writes_to_the_root(nuclei: Path, tmp_path: Path) -> None:
    root = tmp_path / "datasets"
    arguments = ["prepare", "nuclei", "--from", str(nuclei), "--root", str(root)]
    data_app(arguments, standalone_mode=False)
    assert len(load_dataset("nuclei", root=root, split="train")) == 1
    with pytest.raises(DataError, match="give --from CLONE or --tiles SIDE, one of them"):
        data_app(["prepare", "nuclei"], standalone_mode=False)
    with pytest.raises(DataError, match="give the folder to write"):
        data_app(["prepare", "nuclei", "--tiles", "8"], standalone_mode=False)
