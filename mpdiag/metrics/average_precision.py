"""COCO's AP of instances: IoU and averages by pycocotools, matching image by image.

COCOeval needs all detections in memory, and most of its time is a loop over all pairs of detections
and GT. faster-coco-eval (1.8.0) has the same results within 2e-13 and is fast, but its matches can
be neither stored nor sent to another process.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval, Params
from torch import Tensor

from mpdiag.ops import encode_masks

Annotation = dict[str, Any]

_PARAMS = Params(iouType="segm")  # the defaults, as all evaluations use them


class ScoredMasks(Protocol):
    """Detections of one image: (D,) scores and class indices, (D, H, W) bool masks."""

    @property
    def scores(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def masks(self) -> Tensor: ...


class EncodedMasks(Protocol):
    """Detections of one image of size (H, W), with the masks as compressed RLE."""

    @property
    def scores(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def counts(self) -> Sequence[bytes]: ...


@dataclass(frozen=True, slots=True)
class EncodedDetections:
    """Detections of one image; implements `EncodedMasks`."""

    scores: Tensor
    labels: Tensor
    size: tuple[int, int]
    counts: list[bytes]


@dataclass(frozen=True, slots=True)
class CocoAP:
    """COCO's averages as fractions; NaN if no GT counts.

    Attributes:
        ap: averaged over IoU thresholds 0.50, 0.55 .. 0.95 and over classes that have GT.
        ap50, ap75: at one threshold.
        ap_small, ap_medium, ap_large: of GT with an area up to 32^2, up to 96^2, and larger.
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
class ImageMatches:
    """Which detections of an image match its GT: all that COCO's averages need.

    Attributes:
        labels: int64 (D,), class index; the detections of a class are in the order of their scores.
        scores: float64 (D,).
        matched, ignored: (bytes, D), bits of each area range and IoU threshold.
        counted: int64 (M, 2), class index and area range of each GT that counts, M over all ranges.
    """

    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    matched: npt.NDArray[np.uint8]
    ignored: npt.NDArray[np.uint8]
    counted: npt.NDArray[np.int64]


class AveragePrecision:
    """COCO AP over images that are added in any order; `a + b` merges two shards.

    GT and detections of classes that are not in `classes` are ignored. For the AP^Th_pan of a
    panoptic model pass its things and, as Mask2Former does, the instance annotations (which may
    overlap) instead of the panoptic ones.

    At most 100 detections per image and class count, those with the highest scores. A GT crowd is
    neither a true positive nor missed, and detections inside it are not false positives.

    An image is matched when it is added. What is kept takes 26 bytes for each detection.
    """

    def __init__(self, classes: Iterable[int]) -> None:
        self.classes = sorted(set(classes))
        self._images: dict[int, ImageMatches] = {}

    def update(
        self,
        image_id: int,
        detections: ScoredMasks,
        masks: Tensor,
        labels: Tensor,
        crowd: Tensor | None = None,
        areas: Tensor | None = None,
    ) -> None:
        """Add an image with its G ground truths, all at the size of the image file.

        Args:
            image_id: id of the image, which may be added only once.
            detections: detections of the image.
            masks: (G, H, W) bool GT; a GT without pixels counts as missed.
            labels: (G,) class indices.
            crowd: (G,) bool, True for crowds; none if None.
            areas: (G,) pixels that make a GT small, medium or large: the "area" of the
                annotations, which COCO computed from polygons; the areas of the masks if None.

        Raises:
            ValueError: the image was added before, or its detections have another size.
        """
        height, width = detections.masks.shape[1:]
        counts = encode_masks(detections.masks.cpu())
        encoded = EncodedDetections(detections.scores, detections.labels, (height, width), counts)
        self.update_encoded(image_id, encoded, masks, labels, crowd, areas)

    def update_encoded(
        self,
        image_id: int,
        detections: EncodedMasks,
        masks: Tensor,
        labels: Tensor,
        crowd: Tensor | None = None,
        areas: Tensor | None = None,
    ) -> None:
        """Add an image whose detections are encoded as RLE; see `update`."""
        height, width = masks.shape[1:]
        if image_id in self._images:
            raise ValueError(f"image {image_id} was added twice")
        if detections.size != (height, width):
            raise ValueError(
                f"image {image_id} has detections of size {detections.size} and GT of size"
                f" {(height, width)}"
            )
        given = {"iscrowd": crowd, "area": areas}
        extra = {key: values for key, values in given.items() if values is not None}
        counts = encode_masks(masks.cpu())
        truth = self._annotations(image_id, labels, counts, detections.size, extra)
        found = self._annotations(
            image_id,
            detections.labels,
            detections.counts,
            detections.size,
            {"score": detections.scores},
        )
        self._images[image_id] = _match(truth, found)

    def __add__(self, other: "AveragePrecision") -> "AveragePrecision":
        """Return the metric of both shards; ValueError if classes differ or both have an image."""
        if self.classes != other.classes:
            raise ValueError("shards of different classes cannot be merged")
        twice = self._images.keys() & other._images.keys()
        if twice:
            raise ValueError(f"image {min(twice)} was added twice")
        merged = AveragePrecision(self.classes)
        merged._images = self._images | other._images
        return merged

    @property
    def images(self) -> list[ImageMatches]:
        """Matches of each image, in ascending order of the ids."""
        return [self._images[key] for key in sorted(self._images)]

    def compute(self) -> CocoAP:
        """Return the averages over all images."""
        return _averages(self.images, self.classes)

    def _annotations(
        self,
        image_id: int,
        labels: Tensor,
        counts: Sequence[bytes],
        size: tuple[int, int],
        extra: Mapping[str, Tensor],
    ) -> list[Annotation]:
        """Return the masks of `classes` as COCO annotations with their `extra` values."""
        masks = [{"size": list(size), "counts": runs} for runs in counts]
        columns = {key: values.tolist() for key, values in extra.items()}
        return [
            {
                "image_id": image_id,
                "category_id": label,
                "segmentation": mask,
                "area": float(coco_mask.area(mask)),
                "iscrowd": 0,
                **{key: values[row] for key, values in columns.items()},
            }
            for row, (label, mask) in enumerate(zip(labels.tolist(), masks, strict=True))
            if label in self.classes
        ]


def _match(ground_truth: Sequence[Annotation], detections: Sequence[Annotation]) -> ImageMatches:
    """Match the detections of an image class by class."""
    labels = {truth["category_id"] for truth in ground_truth}
    parts = [
        _match_class(
            label,
            [truth for truth in ground_truth if truth["category_id"] == label],
            [found for found in detections if found["category_id"] == label],
        )
        for label in sorted(labels)
    ]
    others = [found for found in detections if found["category_id"] not in labels]
    return _concatenate([*parts, _without_gt(others)])


def _without_gt(detections: Sequence[Annotation]) -> ImageMatches:
    """Return the detections of classes without GT: none matches."""
    labels, scores, areas = (
        np.array([found[name] for found in detections], kind)
        for name, kind in (("category_id", np.int64), ("score", np.float64), ("area", np.float64))
    )
    order = np.lexsort((-scores, labels))  # stable
    in_class = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    order = order[in_class < _PARAMS.maxDets[-1]]
    low, high = np.array(_PARAMS.areaRng).T[:, :, None]
    outside = (areas[order] < low) | (areas[order] > high)
    bits = np.packbits(outside.repeat(len(_PARAMS.iouThrs), axis=0), axis=0)
    nothing = np.zeros((0, 2), np.int64)
    return ImageMatches(labels[order], scores[order], np.zeros_like(bits), bits, nothing)


def _match_class(
    label: int, ground_truth: Sequence[Annotation], detections: Sequence[Annotation]
) -> ImageMatches:
    """Match detections as `COCOeval.evaluateImg`, which loops over all pairs.

    In the order of its scores, each detection takes the GT of largest IoU, the last one of several.
    A GT is taken once, unless it is a crowd. GT that do not count come last.
    """
    order = np.argsort([-found["score"] for found in detections], kind="mergesort")
    best = [detections[row] for row in order[: _PARAMS.maxDets[-1]]]
    crowd = [bool(truth["iscrowd"]) for truth in ground_truth]
    overlaps = coco_mask.iou(
        [found["segmentation"] for found in best],
        [truth["segmentation"] for truth in ground_truth],
        crowd,
    )
    pairs: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
    table = np.reshape(overlaps, (len(best), len(ground_truth)))
    for row, near in np.argwhere(table >= _PARAMS.iouThrs[0]).tolist():
        pairs[row].append((near, table[row, near]))
    shape = (len(_PARAMS.areaRng), len(_PARAMS.iouThrs), len(best))
    matched, ignored = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    counted: list[int] = []
    areas = np.array([found["area"] for found in best], np.float64)
    for area, (low, high) in enumerate(_PARAMS.areaRng):
        uncounted = [
            crowd[gt] or truth["area"] < low or truth["area"] > high
            for gt, truth in enumerate(ground_truth)
        ]
        counted += [area] * uncounted.count(False)
        if pairs:
            _take_gt(pairs, crowd, uncounted, matched[area], ignored[area])
        ignored[area] |= ~matched[area] & ((areas < low) | (areas > high))
    flat = (shape[0] * shape[1], len(best))
    return ImageMatches(
        np.full(len(best), label),
        np.array([found["score"] for found in best], dtype=np.float64),
        np.packbits(matched.reshape(flat), axis=0),
        np.packbits(ignored.reshape(flat), axis=0),
        np.array([(label, area) for area in counted], np.int64).reshape(-1, 2),
    )


def _take_gt(
    pairs: Mapping[int, Sequence[tuple[int, float]]],
    crowd: Sequence[bool],
    uncounted: Sequence[bool],
    matched: npt.NDArray[np.bool_],
    ignored: npt.NDArray[np.bool_],
) -> None:
    """Set `matched` and `ignored`, (thresholds, D), for the GT and IoU near each detection."""
    in_order = {
        row: sorted(some, key=lambda pair: uncounted[pair[0]]) for row, some in pairs.items()
    }
    for at, threshold in enumerate(_PARAMS.iouThrs.tolist()):
        taken: set[int] = set()
        for row, candidates in in_order.items():
            free = [pair for pair in candidates if crowd[pair[0]] or pair[0] not in taken]
            gt = _largest(free, uncounted, min(threshold, 1 - 1e-10))
            if gt is not None:
                taken.add(gt)
                matched[at, row], ignored[at, row] = True, uncounted[gt]


def _largest(
    pairs: Sequence[tuple[int, float]], uncounted: Sequence[bool], threshold: float
) -> int | None:
    """Return the GT of largest IoU, at least `threshold`; one that counts if there is any."""
    best = None
    for gt, overlap in pairs:
        if best is not None and uncounted[gt] and not uncounted[best]:
            break
        if overlap >= threshold:
            best, threshold = gt, overlap
    return best


def _concatenate(parts: Sequence[ImageMatches]) -> ImageMatches:
    size = -(-len(_PARAMS.areaRng) * len(_PARAMS.iouThrs) // 8)
    nothing = np.zeros((size, 0), np.uint8)
    return ImageMatches(
        np.concatenate([np.zeros(0, np.int64), *(part.labels for part in parts)]),
        np.concatenate([np.zeros(0), *(part.scores for part in parts)]),
        np.concatenate([nothing, *(part.matched for part in parts)], axis=1),
        np.concatenate([nothing, *(part.ignored for part in parts)], axis=1),
        np.concatenate([np.zeros((0, 2), np.int64), *(part.counted for part in parts)]),
    )


def _averages(images: Sequence[ImageMatches], classes: Sequence[int]) -> CocoAP:
    """Return the averages of COCOeval over images in the order of their ids.

    COCOeval gets the detections of all images as those of one. It adds 2^-52 to the denominator of
    each precision. Rounding to 12 digits removes it, so that detections equal to the GT have an AP
    of exactly 1.
    """
    everything = _concatenate(images)
    evaluation = COCOeval(iouType="segm")
    params = evaluation.params
    params.imgIds, params.catIds = [0], list(classes)
    params.maxDets = [max(len(everything.labels), 1)]  # each image has its best ones only
    evaluation._paramsEval = params
    evaluation.evalImgs = [
        one for label in classes for one in _image_results(everything, label, params)
    ]
    with redirect_stdout(StringIO()):
        evaluation.accumulate()
    # (thresholds, recalls, classes, area ranges, detections at most), -1 for no GT
    precision = np.round(evaluation.eval["precision"][..., -1], 12)
    whole = precision[..., 0]
    return CocoAP(
        ap=_mean(whole),
        ap50=_mean(whole[0]),
        ap75=_mean(whole[5]),
        ap_small=_mean(precision[..., 1]),
        ap_medium=_mean(precision[..., 2]),
        ap_large=_mean(precision[..., 3]),
        per_class={label: _mean(whole[..., at]) for at, label in enumerate(classes)},
    )


def _image_results(matches: ImageMatches, label: int, params: Params) -> list[dict[str, Any]]:
    """Return the matches of a class as COCOeval's results of one image, for each area range."""
    rows = np.flatnonzero(matches.labels == label)
    shape = (len(params.areaRng), len(params.iouThrs), len(rows))
    matched, ignored = (
        np.unpackbits(bits[:, rows], axis=0, count=shape[0] * shape[1]).reshape(shape)
        for bits in (matches.matched, matches.ignored)
    )
    of_class = matches.counted[matches.counted[:, 0] == label, 1]
    counts = np.bincount(of_class, minlength=shape[0])
    return [
        {
            "dtScores": matches.scores[rows],
            "dtMatches": matched[area],
            "dtIgnore": ignored[area],
            "gtIgnore": np.zeros(counts[area]),
        }
        for area in range(shape[0])
    ]


def _mean(precision: npt.NDArray[np.float64]) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else math.nan
