import contextlib
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mpdiag.data import coco_dataset, generate_synthetic
from mpdiag.data import synthetic as module
from mpdiag.errors import DataError


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_synthetic(
        tmp_path_factory.mktemp("data") / "synthetic", train=6, val=3, size=64, seed=5
    )


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_layout(small: Path) -> None:
    assert sorted(p.name for p in small.iterdir()) == [
        "annotations", "synthetic.json", "train", "val",
    ]  # fmt: skip
    assert sorted(p.name for p in (small / "annotations").iterdir()) == [
        "instances_train.json", "instances_val.json", "panoptic_train", "panoptic_train.json",
        "panoptic_val", "panoptic_val.json",
    ]  # fmt: skip
    assert len(list((small / "train").glob("*.jpg"))) == 6
    assert len(list((small / "annotations" / "panoptic_val").glob("*.png"))) == 3


def test_reader_agrees_with_pycocotools(small: Path) -> None:
    path = small / "annotations" / "instances_train.json"
    with contextlib.redirect_stdout(io.StringIO()):
        peer = COCO(str(path))
    dataset = coco_dataset(path, small / "train")
    for index, image_id in enumerate(dataset.image_ids):
        annotations = peer.loadAnns(peer.getAnnIds(image_id))
        sample = dataset[index]
        assert len(sample.masks) == len(annotations) >= 2
        for mask, annotation in zip(sample.masks.numpy(), annotations, strict=True):
            np.testing.assert_array_equal(mask, peer.annToMask(annotation).astype(bool))
            assert isinstance(annotation["segmentation"]["counts"], str)
            assert annotation["iscrowd"] == 0
            assert annotation["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            x, y = columns.min(), rows.min()
            expected = [x, y, columns.max() - x + 1, rows.max() - y + 1]
            assert annotation["bbox"] == expected


def test_panoptic_has_the_same_things_and_covers_the_image(small: Path) -> None:
    folder = small / "annotations"
    things = coco_dataset(folder / "instances_val.json", small / "val")
    everything = coco_dataset(folder / "panoptic_val.json", small / "val", task="panoptic")
    isthing = np.array([info.isthing for info in everything.classes])
    assert [info.name for info in everything.classes if not info.isthing] == ["smooth", "grainy"]
    for instance, panoptic in zip(things, everything, strict=True):
        assert (panoptic.masks.sum(0) == 1).all()
        selected = isthing[panoptic.labels.numpy()]
        assert panoptic.labels[selected].tolist() == instance.labels.tolist()
        np.testing.assert_array_equal(panoptic.masks[selected], instance.masks)
        assert 1 <= (~selected).sum() <= 2


def test_panoptic_format(small: Path) -> None:
    content = json.loads((small / "annotations" / "panoptic_val.json").read_text())
    for annotation in content["annotations"]:
        path = small / "annotations" / "panoptic_val" / annotation["file_name"]
        with Image.open(path) as file:
            assert file.mode == "RGB"
            png = np.array(file).astype(int)
        ids = png[..., 0] + 256 * png[..., 1] + 256**2 * png[..., 2]
        assert set(np.unique(ids)) == {s["id"] for s in annotation["segments_info"]}
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            rows, columns = np.nonzero(mask)
            x, y = columns.min(), rows.min()
            assert segment["area"] == mask.sum()
            assert segment["bbox"] == [x, y, columns.max() - x + 1, rows.max() - y + 1]
            assert segment["iscrowd"] == 0


def test_same_seed_same_bytes(small: Path, tmp_path: Path) -> None:
    again = generate_synthetic(tmp_path / "again", train=6, val=3, size=64, seed=5)
    assert digests(again) == digests(small)


def test_image_depends_on_seed_split_and_index_only(small: Path, tmp_path: Path) -> None:
    longer = digests(generate_synthetic(tmp_path / "longer", train=8, val=3, size=64, seed=5))
    other = digests(generate_synthetic(tmp_path / "other", train=6, val=3, size=64, seed=6))
    images = {n: d for n, d in digests(small).items() if n.endswith(".jpg")}
    assert images.items() <= longer.items()
    assert not images.items() & other.items()
    assert len(set(images.values())) == len(images) == 9


def test_same_settings_are_reused(small: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in small.rglob("*")}
    assert generate_synthetic(small, train=6, val=3, size=64, seed=5) == small
    assert {p: p.stat().st_mtime_ns for p in small.rglob("*")} == before


def test_other_settings_are_an_error(small: Path) -> None:
    before = digests(small)
    with pytest.raises(DataError, match=r"other settings .*val=3 .*val=4") as caught:
        generate_synthetic(small, train=6, val=4, size=64, seed=5)
    assert str(small) in str(caught.value)
    assert digests(small) == before


def test_folder_with_other_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="files other than synthetic data") as caught:
        generate_synthetic(tmp_path, train=2, val=1)
    assert str(tmp_path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_file_instead_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "synthetic").write_text("mine")
    with pytest.raises(DataError, match="files other than synthetic data"):
        generate_synthetic(tmp_path / "synthetic", train=2, val=1)
    with pytest.raises(DataError, match="cannot be written"):
        generate_synthetic(tmp_path / "synthetic" / "deeper", train=2, val=1)


@pytest.mark.parametrize("settings", [{"train": 0}, {"val": 0}, {"size": 8}, {"seed": -1}])
def test_invalid_settings(tmp_path: Path, settings: dict[str, int]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(DataError, match=f"{name}={value}"):
        generate_synthetic(tmp_path / "synthetic", **settings)
    assert not list(tmp_path.iterdir())


def test_empty_folder_is_used(tmp_path: Path) -> None:
    assert len(list(generate_synthetic(tmp_path, train=2, val=1, size=64).glob("*/*.jpg"))) == 3


def test_interruption_leaves_no_files(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_synthetic(tmp_path / "synthetic", train=3, val=1, size=64, progress=stop)
    assert not list(tmp_path.iterdir())


def test_progress_counts_every_image(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    generate_synthetic(
        tmp_path / "s",
        train=3,
        val=2,
        size=64,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(k, 5) for k in range(1, 6)]


def test_another_process_is_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = module._write

    def slow_write(draft: Path, *rest: object) -> None:
        write(draft, *rest)  # type: ignore[arg-type]
        monkeypatch.setattr(module, "_write", write)
        generate_synthetic(tmp_path / "synthetic", train=2, val=1, size=64)

    monkeypatch.setattr(module, "_write", slow_write)
    generate_synthetic(tmp_path / "synthetic", train=2, val=1, size=64)
    assert [p.name for p in tmp_path.iterdir()] == ["synthetic"]
