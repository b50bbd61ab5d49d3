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

    def add(
        self,
        file_name: str,
        image: Image.Image,
        masks: npt.NDArray[np.bool_],
        labels: Sequence[int],
        crowd: Sequence[bool] | None = None,
        **options: Any,
    ) -> None:
        """Write an image with its segments.

        Args:
            file_name: its suffix is the format of the file.
            image: RGB image.
            masks: (G, H, W) masks, not empty.
            labels: positions in `classes`.
            crowd: True for groups of objects; None for none.
            options: of Pillow's encoder.
        """
        image.save(self._image_folder / file_name, **options)
        image_id = len(self.images) + 1
        size = {"height": image.height, "width": image.width}
        self.images.append({"id": image_id, "file_name": file_name, **size})
        for position, (mask, label) in enumerate(zip(masks, labels, strict=True)):
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            box, area = coco_mask.toBbox(rle).tolist(), int(coco_mask.area(rle))
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image_id,
                    "category_id": self.classes[label].category_id,
                    "iscrowd": int(crowd is not None and crowd[position]),
                    "area": area,
                    "bbox": box,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                }
            )

    def finish(self) -> None:
        """Write the COCO file."""
        categories = [{"id": info.category_id, "name": info.name} for info in self.classes]
        content = {"images": self.images, "annotations": self.annotations}
        write_json(self._file, content | {"categories": categories})
