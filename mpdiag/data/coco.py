"""COCO data sets, instance and panoptic: the reader for real COCO and for the synthetic data."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from mpdiag.data.annotations import (
    ImageRecord,
    InstanceRecord,
    PanopticRecord,
    Task,
    read_annotations,
)
from mpdiag.data.sample import ClassInfo, Sample
from mpdiag.data.segmentation import Masks, decode, segment_ids, to_rle
from mpdiag.errors import DataError


class CocoDataset:
    """Samples of a COCO annotation file; the index is in memory, masks are made per sample.

    annotation_file  instances_*.json, or panoptic_*.json with its PNGs in the folder panoptic_*/
    image_root       folder of the images; of several, the one that holds most of them is taken
    task             "instance": one mask for each annotation; "panoptic": one for each segment

    Crowds are left out of the masks, as are annotations so small that they cover no pixel.
    Labels are contiguous, in the order of the category ids.

    Raises DataError: here for a file that is missing, cut short, not COCO or inconsistent, and
    for missing images; when a sample is read, for an image or segmentation that can't be decoded.
    """

    def __init__(
        self,
        annotation_file: Path | str,
        image_root: Path | str | Sequence[Path],
        *,
        task: Task = "instance",
        name: str | None = None,
        split: str = "",
    ) -> None:
        self.annotation_file = Path(annotation_file)
        self.task = task
        self.name = name or self.annotation_file.stem
        self.split = split
        index = read_annotations(self.annotation_file, task)
        self.classes: list[ClassInfo] = index.classes
        self.image_ids: list[int] = [image.image_id for image in index.images]
        self._images = index.images
        self._records = index.records
        self._num_objects = index.num_objects
        roots = [image_root] if isinstance(image_root, str | Path) else image_root
        files = [image.file_name for image in index.images]
        self.image_root = _root_with_files(self.annotation_file, files, list(map(Path, roots)))
        self.segment_root = self.annotation_file.with_suffix("")
        if task == "panoptic":
            pngs = [index.records[i].file_name for i in range(len(files))]
            _root_with_files(self.annotation_file, pngs, [self.segment_root])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        record = self._images[index]
        image = self._read_image(record)
        if self.task == "instance":
            masks, labels = self._instances(record, self._records[index])
        else:
            masks, labels = self._segments(record, self._records[index])
        return Sample(
            image_id=record.image_id,
            file_name=record.file_name,
            image=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            masks=torch.from_numpy(masks),
            labels=torch.tensor(labels, dtype=torch.int64),
            original_size=(record.height, record.width),
        )

    def num_objects(self, index: int) -> int:
        """How many segments the image is annotated with, crowds left out."""
        return self._num_objects[index]

    def describe(self) -> dict[str, Any]:
        """What a run directory notes of the data set; absolute paths."""
        return {
            "name": self.name,
            "annotation_file": str(self.annotation_file.resolve()),
            "image_root": str(self.image_root.resolve()),
            "split": self.split,
            "task": self.task,
        }

    def _read_image(self, record: ImageRecord) -> npt.NDArray[np.uint8]:
        path = self.image_root / record.file_name
        return _read_rgb(path, (record.height, record.width), self.annotation_file)

    def _instances(
        self, record: ImageRecord, instances: list[InstanceRecord]
    ) -> tuple[Masks, list[int]]:
        rles = []
        for instance in instances:
            try:
                rles.append(to_rle(instance.segmentation, record.height, record.width))
            except ValueError as reason:
                raise DataError(
                    f"{self.annotation_file}: the segmentation of annotation"
                    f" {instance.annotation_id} (image {record.file_name}) {reason}: correct or"
                    " remove the annotation"
                ) from None
        masks = decode(rles, record.height, record.width)
        labels = np.array([instance.label for instance in instances], dtype=np.int64)
        kept = masks.any(axis=(1, 2))
        return masks[kept], labels[kept].tolist()

    def panoptic_truth(self, index: int) -> tuple[Masks, list[int], list[bool]]:
        """All segments of an image, crowds too: (G, H, W) masks, class index, whether a crowd."""
        record, panoptic = self._images[index], self._records[index]
        ids = self._segment_ids(record, panoptic)
        wanted = np.array(list(panoptic.labels), dtype=np.int32)
        crowd = [segment in panoptic.crowds for segment in panoptic.labels]
        return ids[None] == wanted[:, None, None], list(panoptic.labels.values()), crowd

    def _segments(self, record: ImageRecord, panoptic: PanopticRecord) -> tuple[Masks, list[int]]:
        ids = self._segment_ids(record, panoptic)
        kept = {s: label for s, label in panoptic.labels.items() if s not in panoptic.crowds}
        wanted = np.array(list(kept), dtype=np.int32)
        return ids[None] == wanted[:, None, None], list(kept.values())

    def _segment_ids(self, record: ImageRecord, panoptic: PanopticRecord) -> npt.NDArray[np.int32]:
        path = self.segment_root / panoptic.file_name
        ids = segment_ids(_read_rgb(path, (record.height, record.width), self.annotation_file))
        present = set(np.unique(ids).tolist()) - {0}
        unpaired = present ^ panoptic.labels.keys()
        if unpaired:
            segment = min(unpaired)
            holder, other = path, self.annotation_file
            if segment not in present:
                holder, other = other, holder
            raise DataError(
                f"segment {segment} of image {record.image_id} stands in {holder} but not in"
                f" {other}: the two don't belong together, so fetch both anew"
            )
        return ids


def _read_rgb(path: Path, size: tuple[int, int], listed_in: Path) -> npt.NDArray[np.uint8]:
    """(H, W, 3) pixels, upright by the EXIF orientation as in detectron2."""
    try:
        with Image.open(path) as file:
            pixels = np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"image {path} can't be read ({reason}): fetch it anew") from None
    if pixels.shape[:2] != size:
        raise DataError(
            f"image {path} is {pixels.shape[0]} x {pixels.shape[1]} (height x width) but"
            f" {listed_in} lists it as {size[0]} x {size[1]}: they don't belong together"
        )
    return pixels


def _root_with_files(listed_in: Path, files: list[str], roots: list[Path]) -> Path:
    """The folder that holds the files, found by listing folders, not by a look at each file."""
    missing = {root: _missing(root, files) for root in roots}
    root = min(roots, key=lambda root: len(missing[root]))
    lacking = missing[root]
    if not lacking:
        return root
    if len(lacking) == len(files) and len(roots) > 1:
        places = ", ".join(map(str, roots))
        raise DataError(
            f"none of the images of {listed_in} is in any of {places}: give the folder of the"
            " images as the root"
        )
    others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    raise DataError(
        f"{listed_in} lists {lacking[0]}{others} of {len(files)} files, missing in {root}:"
        " fetch what is missing or point to its folder"
    )


def _missing(root: Path, files: list[str]) -> list[str]:
    listings: dict[Path, set[str]] = {}
    missing = []
    for name in files:
        path = root / name
        if path.parent not in listings:
            listings[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        if path.name not in listings[path.parent]:
            missing.append(name)
    return missing
