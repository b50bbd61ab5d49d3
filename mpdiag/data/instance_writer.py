"""Write a split of an instance data set: images, and masks as RLE in a COCO file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from mpdiag.data.generated_folder import write_json
from mpdiag.data.sample import ClassInfo
from mpdiag.data.segmentation import to_rle

ANNOTATIONS = "annotations"


class InstanceWriter:
    """Writes FOLDER/SPLIT/ image by image, and FOLDER/annotations/instances_SPLIT.json at the end.

    `load_dataset(FOLDER)` opens the result.
    """

    def __init__(self, folder: Path, split: str, classes: Sequence[ClassInfo]) -> None:
        self.split = split
        self.classes = classes
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self._image_folder = folder / split
        self._file = folder / ANNOTATIONS / f"instances_{split}.json"
        for path in (self._image_folder, self._file.parent):
            path.mkdir(exist_ok=True)

    def add_image(self, file_name: str, image: Image.Image, **options: Any) -> None:
        """Write an RGB image; the objects that follow belong to it.

        Args:
            file_name: its suffix is the format of the file.
            options: of Pillow's encoder.
        """
        image.save(self._image_folder / file_name, **options)
        size = {"height": image.height, "width": image.width}
        self.images.append({"id": len(self.images) + 1, "file_name": file_name, **size})

    def add_mask(self, mask: npt.NDArray[np.bool_], label: int, *, crowd: bool = False) -> None:
        """Add an object by its (H, W) mask; `label` is the position in `classes`."""
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        counts = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        self._add(label, counts, rle, crowd)

    def add_polygons(self, polygons: list[list[float]], label: int, *, min_pixels: int = 0) -> None:
        """Add an object by its polygons, unless it has fewer than `min_pixels` pixels.

        Raises:
            ValueError: they are no valid polygons; the text completes "the segmentation ...".
        """
        image = self.images[-1]
        rle = to_rle(polygons, image["height"], image["width"])
        if coco_mask.area(rle) >= min_pixels:
            self._add(label, polygons, rle, False)

    def finish(self) -> None:
        """Write the COCO file."""
        categories = [{"id": info.category_id, "name": info.name} for info in self.classes]
        content = {"images": self.images, "annotations": self.annotations}
        write_json(self._file, content | {"categories": categories})

    def _add(self, label: int, segmentation: Any, rle: dict[str, Any], crowd: bool) -> None:
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": len(self.images),
                "category_id": self.classes[label].category_id,
                "iscrowd": int(crowd),
                "area": int(coco_mask.area(rle)),
                "bbox": coco_mask.toBbox(rle).tolist(),
                "segmentation": segmentation,
            }
        )
