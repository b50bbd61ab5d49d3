import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mpdiag.data import generate_synthetic, load_dataset, registry
from mpdiag.errors import DataError

Files = Callable[..., tuple[Path, Path]]


@pytest.fixture
def tiny_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the default synthetic data by three images."""
    monkeypatch.setattr(
        registry,
        "generate_synthetic",
        lambda path: generate_synthetic(path, train=2, val=1, size=64),
    )


def test_coco_layout(coco: Files, panoptic: Files, tmp_path: Path) -> None:
    home = tmp_path / "datasets" / "coco"
    (home / "annotations").mkdir(parents=True)
    path, folder = coco()
    shutil.move(path, home / "annotations" / "instances_train2017.json")
    shutil.move(folder, home / "train2017")
    path, folder = panoptic()
    shutil.move(path, home / "annotations" / "panoptic_val2017.json")
    shutil.move(path.with_suffix(""), home / "annotations" / "panoptic_val2017")
    shutil.move(folder, home / "val2017")
    train = load_dataset("coco", root=tmp_path / "datasets", split="train")
    assert len(train[0].masks) == 4
    assert train.describe()["name"] == "coco" and train.describe()["split"] == "train"
    val = load_dataset("coco", root=tmp_path / "datasets", task="panoptic")
    assert len(val[0].masks) == 3 and val.task == "panoptic"


def test_coco_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--root") as caught:
        load_dataset("coco", root=tmp_path)
    assert str(tmp_path / "coco" / "annotations" / "instances_val2017.json") in str(caught.value)


@pytest.mark.usefixtures("tiny_default")
def test_default_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "shared"))
    load_dataset("synthetic")
    assert (tmp_path / "shared" / "synthetic" / "val").is_dir()
    monkeypatch.delenv("DETECTRON2_DATASETS")
    load_dataset("synthetic")
    assert (tmp_path / "datasets" / "synthetic" / "val").is_dir()


@pytest.mark.usefixtures("tiny_default")
def test_synthetic_is_generated_once_with_a_log_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train = load_dataset("synthetic", root=tmp_path, split="train")
        panoptic = load_dataset("synthetic", root=tmp_path, split="val", task="panoptic")
    assert len(train) == 2 and len(panoptic) == 1
    assert len(caplog.messages) == 1 and str(tmp_path / "synthetic") in caplog.messages[0]


def test_unknown_synthetic_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train or val"):
        load_dataset("synthetic", root=tmp_path, split="test")
    assert not list(tmp_path.iterdir())


def test_synthetic_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "synthetic").mkdir()
    with pytest.raises(DataError, match=r"instances_val\.json"):
        load_dataset("synthetic", root=tmp_path)


@pytest.mark.parametrize("place", [".", "images", "../val", "../val2017", "../custom"])
def test_images_of_an_annotation_file_are_found(coco: Files, tmp_path: Path, place: str) -> None:
    path, folder = coco()
    home = tmp_path / "project" / "annotations"
    home.mkdir(parents=True)
    moved = home / "instances_custom.json"
    shutil.move(path, moved)
    target = home / place
    target.mkdir(exist_ok=True)
    for image in folder.iterdir():
        shutil.move(image, target / image.name)
    dataset = load_dataset(str(moved))
    assert dataset.image_root.resolve() == target.resolve()
    assert dataset.describe()["name"] == "instances_custom"


def test_root_of_an_annotation_file(coco: Files, tmp_path: Path) -> None:
    path, folder = coco()
    elsewhere = tmp_path / "far" / "away"
    elsewhere.parent.mkdir()
    shutil.move(folder, elsewhere)
    assert load_dataset(str(path), root=elsewhere).image_root == elsewhere
    with pytest.raises(DataError, match="none of its files"):
        load_dataset(str(path))


def test_data_set_by_folder(tmp_path: Path) -> None:
    """The folder can have any name; $DETECTRON2_DATASETS and --root are not used."""
    generate_synthetic(tmp_path / "my shapes", train=2, val=1, size=64)
    data = load_dataset(str(tmp_path / "my shapes"), split="train", task="panoptic")
    assert len(data) == 2 and data.name == "synthetic"
    with pytest.raises(DataError, match="not the folder of a known data set"):
        load_dataset(str(tmp_path))


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"imagenet: unknown data set; .*synthetic, coco"):
        load_dataset("imagenet", root=tmp_path)
    with pytest.raises(DataError, match=r"unknown task boxes.*instance, panoptic, semantic"):
        load_dataset("coco", root=tmp_path, task="boxes")
