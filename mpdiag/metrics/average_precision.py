"""AP of instances, COCO's: evaluated by pycocotools, fed from memory, silent."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
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


class EncodedMasks(Protocol):
    """The same at a size (H, W), each mask as COCO's compressed run lengths."""

    @property
    def scores(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def counts(self) -> Sequence[bytes]: ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """Detections of one image as `EncodedMasks`."""

    scores: Tensor
    labels: Tensor
    size: tuple[int, int]
    counts: list[bytes]


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
        height, width = found.masks.shape[1:]
        encoded = Encoded(found.scores, found.labels, (height, width), _encode(found.masks))
        self.update_encoded(image_id, encoded, masks, labels, crowd, areas)

    def update_encoded(
        self,
        image_id: int,
        found: EncodedMasks,
        masks: Tensor,
        labels: Tensor,
        crowd: Tensor | None = None,
        areas: Tensor | None = None,
    ) -> None:
        """Add an image whose detections are run lengths already; see `update`."""
        height, width = masks.shape[1:]
        if image_id in self._images:
            raise ValueError(f"image {image_id} was added twice")
        if found.size != (height, width):
            raise ValueError(
                f"image {image_id} has detections of size {found.size} and GT of size"
                f" {(height, width)}"
            )
        given = {"iscrowd": crowd, "area": areas}
        extra = {key: values for key, values in given.items() if values is not None}
        self._images[image_id] = ImageResults(
            height,
            width,
            self._annotations(image_id, labels, _encode(masks), found.size, extra),
            self._annotations(
                image_id, found.labels, found.counts, found.size, {"score": found.scores}
            ),
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
        self,
        image_id: int,
        labels: Tensor,
        counts: Sequence[bytes],
        size: tuple[int, int],
        extra: Mapping[str, Tensor],
    ) -> list[Annotation]:
        """The masks whose class counts as COCO annotations, with the `extra` values of each."""
        annotations = []
        for row, (label, runs) in enumerate(zip(labels.tolist(), counts, strict=True)):
            if label not in self.classes:
                continue
            segmentation = {"size": list(size), "counts": runs}
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": label,
                    "segmentation": segmentation,
                    "area": float(coco_mask.area(segmentation)),
                    "iscrowd": 0,
                    **{key: values[row].item() for key, values in extra.items()},
                }
            )
        return annotations


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


def _encode(masks: Tensor) -> list[bytes]:
    """Run lengths of (M, H, W) bool masks."""
    if not len(masks):
        return []
    # pycocotools reads masks column by column, one behind the other.
    columns = masks.transpose(1, 2).contiguous().cpu().numpy().view(np.uint8)
    return [rle["counts"] for rle in coco_mask.encode(columns.transpose(2, 1, 0))]


def _coco(dataset: Mapping[str, Any], annotations: Sequence[Annotation]) -> COCO:
    """A COCO object as if read from a file; annotations are numbered from 1, as 0 means none."""
    coco = COCO()
    numbered = [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)]
    coco.dataset = {**dataset, "annotations": numbered}
    with redirect_stdout(StringIO()):
        coco.createIndex()
    return coco
