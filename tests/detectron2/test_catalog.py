"""Data sets registered in detectron2's catalogs, against mpdiag's readers of the same files."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mpdiag.data import SegmentationDataset, generate_synthetic, load_dataset
from mpdiag.errors import DataError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root / "synthetic", train=4, val=3, size=64)
    return root / "synthetic"


@pytest.fixture
def register(detectron2: ModuleType) -> Iterator[Callable[..., str]]:
    """Return a function that registers a data set for one test."""
    catalogs = importlib.import_module("detectron2.data")
    names: list[str] = []

    def register(name: str, function: Callable[..., Any], *arguments: Any) -> str:
        names.append(name)
        function(name, *arguments)
        return name

    yield register
    for name in names:
        catalogs.DatasetCatalog.remove(name)
        catalogs.MetadataCatalog.remove(name)


def same(found: SegmentationDataset, own: SegmentationDataset) -> None:
    assert found.classes == own.classes and found.image_ids == own.image_ids
    assert found.task == own.task
    for index in range(len(own)):
        ours, theirs = own[index], found[index]
        assert found.num_objects(index) == own.num_objects(index)
        assert torch.equal(ours.image, theirs.image) and torch.equal(ours.masks, theirs.masks)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(own.ground_truth(index).areas, found.ground_truth(index).areas)


def test_instances_by_name(register: Callable[..., str], scenes: Path) -> None:
    coco = importlib.import_module("detectron2.data.datasets").register_coco_instances
    file = scenes / "annotations" / "instances_val.json"
    name = register("mpdiag_test_instances", coco, {}, str(file), str(scenes / "val"))
    same(load_dataset(name), load_dataset("synthetic", root=scenes.parent))
    with pytest.raises(DataError, match="no annotations of task panoptic, only instance"):
        load_dataset(name, task="panoptic")


def test_panoptic_by_name(register: Callable[..., str], scenes: Path) -> None:
    own = load_dataset("synthetic", root=scenes.parent, task="panoptic")
    module = importlib.import_module("detectron2.data.datasets")
    names = [info.name for info in own.classes]
    ids = {info.category_id: label for label, info in enumerate(own.classes)}
    things = {info.category_id for info in own.classes if info.isthing}
    metadata = {
        "thing_classes": names,
        "stuff_classes": names,
        "thing_dataset_id_to_contiguous_id": {key: ids[key] for key in ids if key in things},
        "stuff_dataset_id_to_contiguous_id": ids,
    }
    file = scenes / "annotations" / "panoptic_val.json"

    def entries() -> list[dict[str, Any]]:
        """Return the entries of `register_coco_panoptic`, which supports only JPEG."""
        loader = importlib.import_module("detectron2.data.datasets.coco_panoptic")
        found = []
        isfile, loader.PathManager.isfile = loader.PathManager.isfile, lambda path: True
        try:
            found = loader.load_coco_panoptic_json(
                str(file), str(scenes / "val"), str(file.with_suffix("")), metadata
            )
        finally:
            loader.PathManager.isfile = isfile
        for entry in found:
            entry["file_name"] = str(
                next((scenes / "val").glob(f"{Path(entry['file_name']).stem}.*"))
            )
        return found

    name = register("mpdiag_test_panoptic", module.register_coco_panoptic, metadata, "", "", "")
    importlib.import_module("detectron2.data").DatasetCatalog[name] = entries
    same(load_dataset(name), own)


MODULE = """
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
if "mpdiag_test_mine" not in DatasetCatalog:
    register_coco_instances("mpdiag_test_mine", {}, FILE, IMAGES)
"""


def test_module_of_the_user_registers_a_data_set(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, register: Callable[..., str]
) -> None:
    file = scenes / "annotations" / "instances_val.json"
    code = MODULE.replace("FILE", repr(str(file))).replace("IMAGES", repr(str(scenes / "val")))
    (tmp_path / "mpdiag_test_module.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = load_dataset("mpdiag_test_module:mpdiag_test_mine")
    register("mpdiag_test_mine", lambda name: None)  # removed at the end of the test
    same(found, load_dataset("synthetic", root=scenes.parent))
    assert found.name == "mpdiag_test_mine"
    with pytest.raises(DataError, match="mpdiag_test_module does not register other"):
        load_dataset("mpdiag_test_module:other")
    with pytest.raises(DataError, match="no_such_module: cannot be imported"):
        load_dataset("no_such_module:other")


def test_missing_files(register: Callable[..., str], tmp_path: Path) -> None:
    coco = importlib.import_module("detectron2.data.datasets").register_coco_instances
    name = register("mpdiag_test_gone", coco, {}, str(tmp_path / "no.json"), str(tmp_path))
    with pytest.raises(DataError, match="mpdiag_test_gone: the registered function cannot read it"):
        load_dataset(name)
