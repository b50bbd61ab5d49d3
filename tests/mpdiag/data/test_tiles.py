"""Tiles against a brute force, pixel by pixel, and the data sets that they make."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mpdiag.commands.data import data_app
from mpdiag.data import load_dataset
from mpdiag.data.tiles import prepare_tiles
from mpdiag.errors import DataError

Files = Callable[..., tuple[Path, Path]]
SIDE = 8


def expected_tiles(dataset, side: int) -> dict[str, list[tuple[int, bool, np.ndarray]]]:
    """Return (label, crowd, mask) of each object by tile name, one pixel at a time."""
    tiles: dict[str, list[tuple[int, bool, np.ndarray]]] = {}
    for index in range(len(dataset)):
        truth, stem = dataset.ground_truth(index), Path(dataset.file_name(index)).stem
        _, height, width = truth.masks.shape
        for mask, label, crowd in zip(truth.masks, truth.labels, truth.crowd, strict=True):
            parts: dict[tuple[int, int], np.ndarray] = {}
            for y in range(height):
                for x in range(width):
                    top, left = y - y % side, x - x % side
                    shape = (min(side, height - top), min(side, width - left))
                    part = parts.setdefault((top, left), np.zeros(shape, bool))
                    part[y - top, x - left] = bool(mask[y, x])
            for (top, left), part in parts.items():
                if part.sum() >= 16:
                    name = f"{stem}_{top}_{left}.png"
                    tiles.setdefault(name, []).append((int(label), bool(crowd), part))
    return {name: objects for name, objects in tiles.items() if not all(x[1] for x in objects)}


@pytest.mark.parametrize("scale", [1, 3])
def test_tiles_are_those_of_a_brute_force(coco: Files, tmp_path: Path, scale: int) -> None:
    path, folder = coco()
    source = load_dataset(str(path), root=folder)
    expected = expected_tiles(source, SIDE)
    assert {"7_0_8.png", "7_16_16.png"} & expected.keys()  # inside, and partial at the bottom edge
    assert any(crowd for objects in expected.values() for _, crowd, _ in objects)
    output = prepare_tiles(
        str(path), tmp_path / "tiles", side=SIDE, scale=scale, root=folder, splits=["val"]
    )
    tiles = load_dataset(str(output))
    assert [info.name for info in tiles.classes] == [info.name for info in source.classes]
    names = [tiles.file_name(index) for index in range(len(tiles))]
    assert sorted(names) == sorted(expected)
    pixels = {Path(source.file_name(i)).stem: source.image(i).numpy() for i in range(len(source))}
    for index, name in enumerate(names):
        truth = tiles.ground_truth(index)
        found = list(zip(truth.labels, truth.crowd, truth.masks, strict=True))
        assert len(found) == len(expected[name])
        for (label, crowd, mask), (label2, crowd2, mask2) in zip(
            found, expected[name], strict=True
        ):
            assert (int(label), bool(crowd)) == (label2, crowd2)
            np.testing.assert_array_equal(mask, np.kron(mask2, np.ones((scale, scale), bool)))
        stem, top, left = Path(name).stem.split("_")
        height, width = expected[name][0][2].shape
        if scale == 1:
            part = pixels[stem][:, int(top) : int(top) + height, int(left) : int(left) + width]
            np.testing.assert_array_equal(tiles.image(index).numpy(), part)
        assert tiles.image(index).shape[1:] == (height * scale, width * scale)


def test_images_of_one_name_keep_their_own_tiles(coco: Files, tmp_path: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        for image, name in zip(content["images"], ("a/b.png", "a-b.png", "c.png"), strict=True):
            image["file_name"] = name
            source = tmp_path / "images" / f"{image['id']}.png"
            (tmp_path / "images" / "a").mkdir(exist_ok=True)
            source.rename(tmp_path / "images" / name)
        for entry in content["annotations"]:
            if entry["image_id"] == 3:
                entry["iscrowd"] = 0

    path, folder = coco(rename)
    source = load_dataset(str(path), root=folder)
    tiles = load_dataset(
        str(prepare_tiles(str(path), tmp_path / "tiles", side=64, root=folder, splits=["val"]))
    )
    for index in range(2):
        np.testing.assert_array_equal(tiles.image(index).numpy(), source.image(index).numpy())
    assert len({tiles.file_name(index) for index in range(len(tiles))}) == len(tiles) == 2


def test_areas_and_boxes_are_those_of_the_tile(coco: Files, tmp_path: Path) -> None:
    path, folder = coco()
    output = prepare_tiles(
        str(path), tmp_path / "tiles", side=SIDE, scale=2, root=folder, splits=["val"]
    )
    content = json.loads((output / "annotations" / "instances_val.json").read_text())
    assert content["annotations"]
    for entry in content["annotations"]:
        mask = coco_mask.decode(entry["segmentation"])
        rows, columns = np.nonzero(mask)
        x, y = columns.min(), rows.min()
        assert entry["area"] == mask.sum() >= 4 * 16
        assert entry["bbox"] == [x, y, columns.max() - x + 1, rows.max() - y + 1]


def both_splits(coco: Files, folder: Path) -> Path:
    """Move the data set of the fixture to the layout that `prepare` writes."""
    path, images = coco()
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(path.read_text())
        (folder / split).mkdir()
        for image in images.iterdir():
            (folder / split / image.name).write_bytes(image.read_bytes())
    return folder


def test_a_folder_in_the_root_is_a_data_set(
    coco: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = both_splits(coco, tmp_path / "datasets" / "mine")
    by_root = load_dataset("mine", root=tmp_path / "datasets", split="train")
    assert by_root.describe()["name"] == "mine" and len(by_root) == 3
    assert len(load_dataset(str(folder), split="val")) == 3
    monkeypatch.chdir(folder)
    assert load_dataset(".").describe()["name"] == "mine"
    with pytest.raises(DataError, match=r"instances_test\.json: not found .*choose another split"):
        load_dataset("mine", root=tmp_path / "datasets", split="test")


def test_the_folder_is_kept_if_it_is_the_same_and_refused_if_not(
    coco: Files, tmp_path: Path
) -> None:
    folder = both_splits(coco, tmp_path / "mine")
    output = prepare_tiles(str(folder), tmp_path / "tiles", side=SIDE)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert len([path for path in before if path.suffix == ".png"]) > 2
    prepare_tiles(str(folder), output, side=SIDE)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    with pytest.raises(DataError, match="tiles data of other settings"):
        prepare_tiles(str(folder), output, side=SIDE, scale=2)


def test_nothing_is_left_after_an_error(coco: Files, tmp_path: Path) -> None:
    folder = both_splits(coco, tmp_path / "mine")
    (folder / "val" / "7.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"7\.png"):
        prepare_tiles(str(folder), tmp_path / "out" / "tiles", side=SIDE)
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(DataError, match="no tile has an object of 16 pixels"):
        prepare_tiles(str(folder), tmp_path / "out" / "tiles", side=3, splits=["train"])
    with pytest.raises(DataError, match="--scale 17: must be 1 to 16"):
        prepare_tiles(str(folder), tmp_path / "out" / "tiles", side=8, scale=17)


def test_tiles_larger_than_an_image_can_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--tiles 4096 --scale 4: .* more than 178,956,970 pixels"):
        prepare_tiles("synthetic", tmp_path / "tiles", side=4096, scale=4, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_data_without_instances(panoptic: Files, tmp_path: Path) -> None:
    """Stuff segments would become objects."""
    path, folder = panoptic()
    with pytest.raises(DataError, match="contains panoptic annotations"):
        prepare_tiles(str(path), tmp_path / "tiles", side=SIDE, root=folder, splits=["val"])


def test_splits_with_the_same_images(coco: Files, tmp_path: Path) -> None:
    path, folder = coco()
    with pytest.raises(DataError, match="has the same images in train and val; give"):
        prepare_tiles(str(path), tmp_path / "tiles", side=SIDE, root=folder)
    assert not (tmp_path / "tiles").exists()


def test_command(coco: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = both_splits(coco, tmp_path / "mine")
    arguments = ["prepare", str(folder), str(tmp_path / "tiles"), "--tiles", "8", "--scale", "2"]
    data_app(arguments, standalone_mode=False)
    assert str(tmp_path / "tiles") in capsys.readouterr().out.replace("\n", "")
    with Image.open(next((tmp_path / "tiles" / "val").iterdir())) as image:
        assert image.width in (12, 16) and image.height in (8, 16)
