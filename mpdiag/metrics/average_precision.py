"""AP of instances, COCO's: evaluated by pycocotools, fed from memory, silent."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

Annotation = dict[str, Any]


class ScoredMasks(Protocol):
    """Detections of one image: (D,) scores and class indices, (D, H, W) bool masks."""

    @property
    def scores(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def masks(self) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class CocoAP:
    """COCO's averages as fractions; NaN where no GT counts.

    Attributes:
        ap: over IoU thresholds 0.50, 0.55 .. 0.95, and over classes that have GT.
        ap50, ap75: at one threshold.
        ap_small, ap_medium, ap_large: of GT with an area up to 32^2, from there to 96^2, and above.
        per_class: `ap` of each class.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    per_class: dict[int, float]


@dataclass(frozen=True, slots=True)
class ImageResults:
    """GT and detections of one image, in the words of COCO's files."""

    height: int
    width: int
    truth: list[Annotation]
    found: list[Annotation]


class AveragePrecision:
    """Gathers images in any order; `a + b` unites what two shards gathered.

    `classes` are the class indices that count; GT and detections of others are left out. The
    AP^Th_pan of a panoptic model is that of its things, measured as Mask2Former does against the
    instance annotations (which overlap), not against the panoptic ones.

    At most 100 detections of an image and class count, the highest scores first; the GT of
    crowds is neither found nor missed, and what lies in it is no false positive.
    """

    def __init__(self, classes: Iterable[int]) -> None:
        self.classes = sorted(set(classes))
        self._images: dict[int, ImageResults] = {}

    def update(
        self,
        image_id: int,
        found: ScoredMasks,
        masks: Tensor,
        labels: Tensor,
        crowd: Tensor | None = None,
        areas: Tensor | None = None,
    ) -> None:
        """Add an image with its G ground truths, all at the size of the image file.

        Args:
            image_id: the image; each may be added once.
            found: its detections.
            masks: (G, H, W) bool GT; one without a pixel counts as missed.
            labels: (G,) class index.
            crowd: (G,) bool, which are crowds; none if None.
            areas: (G,) pixels, by which GT are small, medium or large: the annotations' "area",
                which COCO took from polygons; the masks' own if None.

        Raises:
            ValueError: the image was added before, or its detections have another size.
        """
        if image_id in self._images:
            raise ValueError(f"image {image_id} was added twice")
        if masks.shape[1:] != found.masks.shape[1:]:
            raise ValueError(
                f"image {image_id} has detections of size {tuple(found.masks.shape[1:])} and GT of"
                f" size {tuple(masks.shape[1:])}"
            )
        given = {"iscrowd": crowd, "area": areas}
        extra = {key: values for key, values in given.items() if values is not None}
        height, width = masks.shape[1:]
        self._images[image_id] = ImageResults(
            height,
            width,
            self._annotations(image_id, masks, labels, extra),
            self._annotations(image_id, found.masks, found.labels, {"score": found.scores}),
        )

    def __add__(self, other: "AveragePrecision") -> "AveragePrecision":
        """What both gathered. ValueError where classes differ or an image is in both."""
        if self.classes != other.classes:
            raise ValueError("shards of different classes can't be united")
        twice = self._images.keys() & other._images.keys()
        if twice:
            raise ValueError(f"image {min(twice)} was added twice")
        united = AveragePrecision(self.classes)
        united._images = self._images | other._images
        return united

    def compute(self) -> CocoAP:
        """The averages of all images so far."""
        return coco_ap(self._images, self.classes)

    def _annotations(
        self, image_id: int, masks: Tensor, labels: Tensor, extra: Mapping[str, Tensor]
    ) -> list[Annotation]:
        """The masks whose class counts as COCO annotations, with the `extra` values of each."""
        rows = [row for row, label in enumerate(labels.tolist()) if label in self.classes]
        return [
            {
                "image_id": image_id,
                "category_id": int(labels[row]),
                "segmentation": rle,
                "area": float(coco_mask.area(rle)),
                "iscrowd": 0,
                **{key: values[row].item() for key, values in extra.items()},
            }
            for row, rle in zip(rows, _encode(masks[rows]), strict=True)
        ]


def coco_ap(images: Mapping[int, ImageResults], classes: Sequence[int]) -> CocoAP:
    """COCO's averages of images by their ids."""
    truth = [annotation for image in images.values() for annotation in image.truth]
    found = [annotation for image in images.values() for annotation in image.found]
    dataset = {
        "images": [
            {"id": image_id, "height": image.height, "width": image.width}
            for image_id, image in images.items()
        ],
        "categories": [{"id": label} for label in classes],
    }
    return _averages(_coco(dataset, truth), _coco(dataset, found), sorted(images), classes)


def file_ap(annotation_file: Path, image_ids: Sequence[int], found: Sequence[Annotation]) -> CocoAP:
    """COCO's averages of detections against an instance annotation file, crowds and all.

    Args:
        annotation_file: COCO instances.
        image_ids: the images that count, all or some of the file's.
        found: image_id, category_id (the file's), score and segmentation (RLE) of each.

    Returns:
        The averages; `per_class` by category id.
    """
    with redirect_stdout(StringIO()):
        truth = COCO(str(annotation_file))
    frame = {"images": truth.dataset["images"], "categories": truth.dataset["categories"]}
    measured = [{**one, "area": float(coco_mask.area(one["segmentation"]))} for one in found]
    return _averages(truth, _coco(frame, measured), sorted(image_ids), sorted(truth.cats))


def _averages(truth: COCO, found: COCO, image_ids: Sequence[int], classes: Sequence[int]) -> CocoAP:
    """What COCOeval says; it takes images in the order of their ids.

    It adds 2^-52 to the denominator of each precision; rounding to 12 digits takes it out
    again, so that detections equal to the GT have an AP of exactly 1.
    """
    with redirect_stdout(StringIO()):
        evaluation = COCOeval(truth, found, "segm")
        evaluation.params.imgIds = list(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
    # (thresholds, recalls, classes, area ranges, detections at most), -1 for no GT
    precision = np.round(evaluation.eval["precision"][..., -1], 12)
    everything = precision[..., 0]
    return CocoAP(
        ap=_mean(everything),
        ap50=_mean(everything[0]),
        ap75=_mean(everything[5]),
        ap_small=_mean(precision[..., 1]),
        ap_medium=_mean(precision[..., 2]),
        ap_large=_mean(precision[..., 3]),
        per_class={label: _mean(everything[..., at]) for at, label in enumerate(classes)},
    )


def _mean(precision: npt.NDArray[np.float64]) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else math.nan


def _encode(masks: Tensor) -> list[Annotation]:
    """COCO RLEs of (M, H, W) bool masks."""
    if not len(masks):
        return []
    # pycocotools reads masks column by column, one behind the other.
    columns = masks.transpose(1, 2).contiguous().cpu().numpy().view(np.uint8)
    rles: list[Annotation] = coco_mask.encode(columns.transpose(2, 1, 0))
    return rles


def _coco(dataset: Mapping[str, Any], annotations: Sequence[Annotation]) -> COCO:
    """A COCO object as if read from a file; annotations are numbered from 1, as 0 means none."""
    coco = COCO()
    numbered = [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)]
    coco.dataset = {**dataset, "annotations": numbered}
    with redirect_stdout(StringIO()):
        coco.createIndex()
    return coco
