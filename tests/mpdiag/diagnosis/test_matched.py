"""AP of matched detections against COCOeval, and its weights against repeated images."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from mpdiag.diagnosis.evidence import Evidence
from mpdiag.diagnosis.matched import ImageDetections, weighted_ap
from mpdiag.metrics.average_precision import AveragePrecision, EncodedDetections

SIZE = (24, 24)


def _random_image(
    generator: np.random.Generator,
) -> tuple[ImageDetections, EncodedDetections, torch.Tensor, torch.Tensor, torch.Tensor]:
    def box() -> np.ndarray:
        mask = np.zeros(SIZE, np.uint8)
        top, left = generator.integers(0, 16, 2)
        height, width = generator.integers(4, 9, 2)
        mask[top : top + height, left : left + width] = 1
        return mask

    gt = [box() for _ in range(generator.integers(1, 5))]
    detections = [np.roll(x, generator.integers(-1, 2, 2), (0, 1)) for x in gt for _ in range(3)]
    labels, gt_labels = generator.integers(0, 2, len(detections)), generator.integers(0, 2, len(gt))
    # Few distinct scores, so that there are ties.
    scores = generator.integers(1, 9, len(detections)) / 8
    crowd = generator.random(len(gt)) < 0.2
    rles = [[coco_mask.encode(np.asfortranarray(x)) for x in many] for many in (detections, gt)]
    iou = np.asarray(coco_mask.iou(rles[0], rles[1], crowd.astype(int).tolist()))
    order = np.argsort(-scores, kind="stable")
    own = ImageDetections(
        labels[order], scores[order], iou[order], gt_labels, crowd,
        np.zeros(len(order), np.bool_), order,
    )  # fmt: skip
    encoded = EncodedDetections(
        torch.from_numpy(scores[order]), torch.from_numpy(labels[order]), SIZE,
        [rles[0][row]["counts"] for row in order],
    )  # fmt: skip
    masks = torch.from_numpy(np.stack(gt).astype(bool))
    return own, encoded, masks, torch.from_numpy(gt_labels), torch.from_numpy(crowd)


@pytest.mark.parametrize("seed", range(4))
def test_ap_equals_cocoeval_also_with_ties_and_crowds(seed: int) -> None:
    generator = np.random.default_rng(seed)
    reference, images = AveragePrecision(range(2)), []
    for image_id in range(8):
        own, encoded, masks, labels, crowd = _random_image(generator)
        reference.update_encoded(image_id, encoded, masks, labels, crowd)
        images.append(own)
    matched = weighted_ap(images, 2)
    expected = reference.compute()
    assert matched.values()[0] == pytest.approx(expected.ap, abs=1e-12)
    for place, value in ((0, expected.ap50), (5, expected.ap75)):
        assert matched.at_threshold(place).values()[0] == pytest.approx(value, abs=1e-12)
    assert matched.class_values()[0] == pytest.approx(
        [expected.per_class[0], expected.per_class[1]], abs=1e-12, nan_ok=True
    )


def _weighted_ap(images: list[ImageDetections], weights: np.ndarray, label: int) -> float:
    """Compute AP of a class detection by detection; each counts with the weight of its image."""
    total = sum(
        weight * ((image.gt_labels == label) & ~image.crowd).sum()
        for image, weight in zip(images, weights, strict=True)
    )
    values = []
    for place in range(10):
        rows = []
        for image, weight in zip(images, weights, strict=True):
            matched, ignored = image.match.gt >= 0, image.match.ignored
            rows += [
                (-score, weight, true)
                for score, own, true, skip in zip(
                    image.scores, image.labels, matched[place], ignored[place], strict=True
                )
                if own == label and not skip
            ]
        rows.sort(key=lambda row: row[0])
        curve, found, every = [], 0.0, 0.0
        for _, weight, true in rows:
            found, every = found + weight * true, every + weight
            curve.append((found / total, found / every if every else 0.0))
        values += [
            max((precision for recall, precision in curve if recall >= at), default=0.0)
            for at in np.linspace(0, 1, 101)
        ]
    return float(np.mean(values))


def test_weights_of_images_weight_their_detections() -> None:
    generator = np.random.default_rng(9)
    images = [_random_image(generator)[0] for _ in range(6)]
    weights = np.array([[2.0, 0, 1, 3, 1, 1], [0, 1, 1, 0, 0, 4]])
    expected = [[_weighted_ap(images, row, label) for label in range(2)] for row in weights]
    matched = weighted_ap(images, 2)
    np.testing.assert_allclose(matched.class_values(weights), expected, atol=1e-12)
    np.testing.assert_allclose(matched.values(weights), np.mean(expected, 1), atol=1e-12)


def test_ignored_detections_are_no_false_positives(
    make_evidence: Callable[..., Evidence],
) -> None:
    image = ImageDetections(
        labels=np.array([0, 0]), scores=np.array([0.9, 0.8]), iou=np.array([[0.0], [1.0]]),
        gt_labels=np.array([0]), crowd=np.array([False]), ignored=np.array([True, False]),
        queries=np.array([0, 1]),
    )  # fmt: skip
    assert weighted_ap([image], 1).values()[0] == 1


@pytest.mark.parametrize(
    ("shared", "union", "thresholds"), [(13, 20, 4), (7, 10, 5), (9, 10, 9), (19, 20, 10)]
)
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_an_iou_that_equals_a_threshold_matches(
    shared: int, union: int, thresholds: int, precision: type
) -> None:
    """In float32, each of these fractions is below the threshold in float64."""
    image = ImageDetections(
        labels=np.array([0]), scores=np.array([0.9]),
        iou=np.array([[shared]], precision) / np.array([[union]], precision),
        gt_labels=np.array([0]), crowd=np.array([False]), ignored=np.array([False]),
        queries=np.array([0]),
    )  # fmt: skip
    assert (image.match.gt == 0).sum() == thresholds
    assert weighted_ap([image], 1).values()[0] == pytest.approx(thresholds / 10)
