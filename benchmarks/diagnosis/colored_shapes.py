"""The data of the benchmark: synthetic shapes with one color per class.

In the synthetic data set, only the outline of a shape shows its class. Here its color does so as
well. A small model then learns the classes in a few minutes, and the order of the color channels
matters, so that every fault costs AP.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from mpdiag.data import generate_synthetic
from mpdiag.untrusted import read_json

# Of the seven classes. Swapping red and blue exchanges two pairs of classes and keeps three.
COLORS = np.array(
    [
        (225, 45, 40),
        (40, 70, 225),
        (230, 215, 50),
        (50, 210, 225),
        (60, 200, 70),
        (215, 60, 205),
        (235, 235, 235),
    ],
    dtype=np.float32,
)
COLOR_SHARE = 0.5  # of a pixel's value; the rest is the color that the scene has
DONE = "colored"  # file that marks a data set as complete


def generate_colored_shapes(directory: Path, *, train: int, val: int, seed: int) -> Path:
    """Generate a data set with the layout of `generate_synthetic`, and return its directory.

    A complete data set is kept.

    Args:
        directory: directory to create.
        train, val: number of images of each split, 96 pixels wide.
        seed: random seed of the scenes.
    """
    generate_synthetic(directory, train=train, val=val, seed=seed)
    if not (directory / DONE).is_file():
        for split in ("train", "val"):
            _color_split(directory, split)
        (directory / DONE).touch()
    return directory


def _color_split(directory: Path, split: str) -> None:
    content: Any = read_json(directory / "annotations" / f"instances_{split}.json")
    annotations: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        annotations.setdefault(annotation["image_id"], []).append(annotation)
    for record in content["images"]:
        path = directory / split / record["file_name"]
        with Image.open(path) as image:
            pixels = np.asarray(image).astype(np.float32)
        for annotation in annotations.get(record["id"], []):
            mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
            color_object(pixels, mask, annotation["category_id"] - 1)
        Image.fromarray(pixels.round().astype(np.uint8)).save(path, quality=92, subsampling=0)


def color_object(pixels: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], label: int) -> None:
    """Mix the color of a class into the pixels (H, W, 3) of an object, in place."""
    pixels[mask] += COLOR_SHARE * (COLORS[label] - pixels[mask])


def write_coco(path: Path, content: dict[str, Any]) -> Path:
    """Write a COCO-format file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
