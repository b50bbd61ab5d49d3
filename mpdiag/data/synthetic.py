"""Write the synthetic data set: seeded scenes in COCO format, with instances and panoptic."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mpdiag.data.generated_folder import Progress, generate_folder, write_json
from mpdiag.data.scenes import STUFF, THINGS, Scene, draw_scene
from mpdiag.data.segmentation import segment_colors
from mpdiag.errors import DataError

DEFAULT_SETTINGS = {"train": 6000, "val": 300, "size": 96, "seed": 0}
SYNTHETIC_SPLITS = ("train", "val")

# Increase it when the same settings give other images, so that old data is not reused.
_GENERATOR_VERSION = 1

_CATEGORIES: list[dict[str, Any]] = [
    {"id": number, "name": name, "supercategory": "shape", "isthing": 1}
    for number, name in enumerate(THINGS, start=1)
] + [
    {"id": number, "name": name, "supercategory": "background", "isthing": 0}
    for number, name in enumerate(STUFF, start=len(THINGS) + 1)
]


def generate_synthetic(
    directory: Path | str,
    *,
    train: int = DEFAULT_SETTINGS["train"],
    val: int = DEFAULT_SETTINGS["val"],
    size: int = DEFAULT_SETTINGS["size"],
    seed: int = DEFAULT_SETTINGS["seed"],
    progress: Progress | None = None,
) -> Path:
    """Generate the synthetic data set and return its directory.

    A directory with the data of the same settings is kept. The directory is created atomically.

    Args:
        directory: directory to create.
        train: number of training images.
        val: number of validation images.
        size: height and width of an image in pixels.
        seed: random seed.
        progress: called with (images done, total).

    Raises:
        DataError: a setting is invalid, the directory contains other files, or it cannot be
            written.
    """
    directory = Path(directory).absolute()
    settings = {"generator": _GENERATOR_VERSION, "train": train, "val": val, "size": size,
                "seed": seed}  # fmt: skip
    limits = {"train": (1, 10**6), "val": (1, 10**6), "size": (32, 4096), "seed": (0, 2**63 - 1)}
    for name, (low, high) in limits.items():
        if not low <= settings[name] <= high:
            raise DataError(f"{name}={settings[name]}: must be {low} to {high}; correct it")
    generate_folder(
        directory, "synthetic.json", settings, lambda draft: _write(draft, settings, progress)
    )
    return directory


def _write(draft: Path, settings: dict[str, int], progress: Progress | None) -> None:
    total, done = settings["train"] + settings["val"], 0
    (draft / "annotations").mkdir()
    for number, split in enumerate(SYNTHETIC_SPLITS):
        writer = _SplitWriter(draft, split, settings["size"])
        for index in range(settings[split]):
            rng = np.random.default_rng([settings["seed"], number, index])
            writer.add(index + 1, draw_scene(rng, settings["size"]))
            done += 1
            if progress is not None:
                progress(done, total)
        writer.finish()
    write_json(draft / "synthetic.json", settings)


class _SplitWriter:
    """Writes images and panoptic PNGs of a split one by one, and its JSON files at the end."""

    def __init__(self, draft: Path, split: str, size: int) -> None:
        self.images = draft / split
        self.annotations = draft / "annotations"
        self.split = split
        self.size = size
        self.listed: list[dict[str, Any]] = []
        self.instances: list[dict[str, Any]] = []
        self.panoptic: list[dict[str, Any]] = []
        self.pngs = self.annotations / f"panoptic_{split}"
        for folder in (self.images, self.pngs):
            folder.mkdir()

    def add(self, image_id: int, scene: Scene) -> None:
        stem = f"{image_id:06d}"
        Image.fromarray(scene.image).save(self.images / f"{stem}.jpg", quality=92, subsampling=0)
        self.listed.append({"id": image_id, "file_name": f"{stem}.jpg", "height": self.size,
                            "width": self.size})  # fmt: skip
        values = [*range(len(scene.labels)), *(v for v in (-1, -2) if np.any(scene.segments == v))]
        columns = np.ascontiguousarray(scene.segments.T)  # column-major, as in RLE
        masks = columns == np.array(values, dtype=np.int16)[:, None, None]
        rles = coco_mask.encode(masks.view(np.uint8).transpose(2, 1, 0))
        areas, boxes = coco_mask.area(rles).tolist(), coco_mask.toBbox(rles).tolist()
        segments = []
        for value, rle, area, box in zip(values, rles, areas, boxes, strict=True):
            label = scene.labels[value] if value >= 0 else len(THINGS) - 1 - value
            entry = {"id": 0, "category_id": label + 1, "area": area, "iscrowd": 0,
                     "bbox": [int(edge) for edge in box]}  # fmt: skip
            segments.append(entry | {"id": _segment_id(value)})
            if value >= 0:
                counts = {"size": [self.size] * 2, "counts": rle["counts"].decode("ascii")}
                number = len(self.instances) + 1
                self.instances.append(
                    entry | {"id": number, "image_id": image_id, "segmentation": counts}
                )
        self.panoptic.append({"image_id": image_id, "file_name": f"{stem}.png",
                              "segments_info": segments})  # fmt: skip
        ids = np.array([_segment_id(v) for v in range(-2, len(scene.labels))], dtype=np.int32)
        colors = segment_colors(ids[scene.segments + 2])
        Image.fromarray(colors).save(self.pngs / f"{stem}.png", compress_level=1)

    def finish(self) -> None:
        things = [category for category in _CATEGORIES if category["isthing"]]
        for kind, annotations, categories in (
            ("instances", self.instances, things),
            ("panoptic", self.panoptic, _CATEGORIES),
        ):
            content = {"info": {"description": "mpdiag synthetic shapes"}, "images": self.listed,
                       "annotations": annotations, "categories": categories}  # fmt: skip
            write_json(self.annotations / f"{kind}_{self.split}.json", content)


def _segment_id(value: int) -> int:
    """Return an id whose color in the PNG differs visibly from the others."""
    return (value + 3) * 1_234_567 % (1 << 24)
