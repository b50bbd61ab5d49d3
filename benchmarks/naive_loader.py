"""Naive baseline of training samples of COCO, as detectron2's mappers create them.

The steps are those of Mask2Former's `COCOInstanceNewBaselineDatasetMapper`: flip, resize with PIL,
crop and pad the image. Polygons are transformed and rasterised at full size, RLE masks are decoded,
resized with PIL and cropped, one instance at a time. Unlike in detectron2, polygons are not clipped
to the crop, which would take longer.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

SIDE = 1024
SCALES = (0.1, 2.0)
PADDING_VALUE = 128

Pixels = npt.NDArray[np.uint8]


class NaiveMapper:
    """Create samples of a COCO file: image (3, SIDE, SIDE) and masks (G, SIDE, SIDE)."""

    def __init__(self, path: Path, image_root: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        self._images = {image["id"]: image for image in content["images"]}
        self._root = image_root
        self._annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd"):
                self._annotations[annotation["image_id"]].append(annotation)

    def __call__(self, image_id: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return the sample of an image with random geometry from a seed."""
        with Image.open(self._root / self._images[image_id]["file_name"]) as file:
            image = np.asarray(file.convert("RGB"))
        geometry = _Geometry(np.random.default_rng(seed), image.shape[0], image.shape[1])
        pixels = geometry.apply(image, Image.Resampling.BILINEAR, PADDING_VALUE)
        masks = [self._mask(annotation, geometry) for annotation in self._annotations[image_id]]
        stacked = torch.stack(masks) if masks else torch.zeros(0, SIDE, SIDE, dtype=torch.bool)
        stacked = stacked[stacked.flatten(1).any(1)]
        return torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1))), stacked

    def _mask(self, annotation: dict[str, Any], geometry: "_Geometry") -> Tensor:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            polygons = [geometry.points(polygon) for polygon in segmentation]
            drawn = coco_mask.decode(coco_mask.frPyObjects(polygons, SIDE, SIDE))
            return torch.as_tensor(drawn, dtype=torch.bool).any(2)
        decoded = coco_mask.decode(segmentation)
        return torch.from_numpy(geometry.apply(decoded, Image.Resampling.NEAREST, 0).astype(bool))


class _Geometry:
    """Flip, scale and crop of one sample."""

    def __init__(self, generator: np.random.Generator, height: int, width: int) -> None:
        self.flipped, self.width = generator.random() < 0.5, width
        fit = min(SIDE / height, SIDE / width) * generator.uniform(*SCALES)
        self.size = max(round(height * fit), 1), max(round(width * fit), 1)
        self.scale = self.size[0] / height, self.size[1] / width
        margins = (max(length - SIDE, 0) for length in self.size)
        self.top, self.left = (int(generator.integers(margin + 1)) for margin in margins)

    def apply(self, image: Pixels, resampling: Image.Resampling, fill: int) -> Pixels:
        flipped = image[:, ::-1] if self.flipped else image
        resized = Image.fromarray(flipped).resize(self.size[::-1], resampling)
        window = np.asarray(resized)[self.top : self.top + SIDE, self.left : self.left + SIDE]
        padded = np.full((SIDE, SIDE, *image.shape[2:]), fill, dtype=np.uint8)
        padded[: window.shape[0], : window.shape[1]] = window
        return padded

    def points(self, polygon: list[float]) -> list[float]:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        if self.flipped:
            points = np.stack([self.width - points[:, 0], points[:, 1]], 1)
        moved = points * self.scale[::-1] - (self.left, self.top)
        flat: list[float] = moved.ravel().tolist()
        return flat
