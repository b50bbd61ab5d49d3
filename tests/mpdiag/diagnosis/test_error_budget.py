"""TIDE's errors in cases computed by hand, and scores of layers against direct computations."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mpdiag.diagnosis.error_budget import ERRORS, ImageErrors, error_budget
from mpdiag.diagnosis.evidence import Evidence
from mpdiag.diagnosis.layer_scores import Calibration, layer_scores, recall_of_layers
from mpdiag.diagnosis.matched import ImageDetections


def test_each_error_is_classified() -> None:
    # GT 0 and 1 are of class 0, GT 2 is of class 1, GT 3 of class 1 is missed.
    iou = np.array([
        [0.9, 0, 0, 0],     # true positive of GT 0
        [0.8, 0, 0, 0],     # duplicate
        [0, 0.3, 0, 0],     # localisation of GT 1, which it finds once fixed
        [0, 0.2, 0, 0],     # localisation too, with a lower score
        [0, 0, 0.7, 0],     # classification: class 0 on GT 2
        [0, 0, 0.3, 0],     # both: class 0, low overlap with GT 2
        [0.05, 0, 0, 0.1],  # background
    ])  # fmt: skip
    image = ImageDetections(
        labels=np.zeros(7, np.int64), scores=np.linspace(0.9, 0.3, 7), iou=iou,
        gt_labels=np.array([0, 0, 1, 1]), crowd=np.zeros(4, np.bool_),
        ignored=np.zeros(7, np.bool_), queries=np.arange(7),
    )  # fmt: skip
    errors = ImageErrors.of(image)
    names = ["" if kind < 0 else ERRORS[kind] for kind in errors.kind]
    assert names == [
        "", "duplicate", "localisation", "localisation", "classification", "both", "background",
    ]  # fmt: skip
    assert errors.becomes.tolist() == [-1, -1, 1, -1, 2, -1, -1]
    assert errors.missed.tolist() == [False, False, False, True]


def test_a_fixed_error_gains_the_ap_that_it_costs(
    make_evidence: Callable[..., Evidence],
) -> None:
    # With the rule of DETR, a query has one class. Wrong classes: fixing them restores AP50.
    healthy = replace(make_evidence(), rule="detr")
    assert error_budget(healthy)["classification"] == 0
    images = [
        replace(image, class_logits=np.roll(image.class_logits[..., :3], 1, -1))
        for image in healthy.images
    ]
    images = [
        replace(new, class_logits=np.concatenate([new.class_logits, old.class_logits[..., 3:]], -1))
        for new, old in zip(images, healthy.images, strict=True)
    ]
    before, after = layer_scores(healthy)[-1], layer_scores(healthy.changed(images))[-1]
    assert after["ap50"] + after["classification"] == pytest.approx(before["ap50"])
    assert after["classification"] > 0.5


def test_classes_without_gt_do_not_count_in_ap50(make_evidence: Callable[..., Evidence]) -> None:
    """The only GT is found, with an IoU of 0.72. Detections of the other classes are false."""
    evidence = replace(make_evidence(), rule="detr")
    image = next(one for one in evidence.images if one.gt_labels[0] != one.gt_labels[1])
    only = replace(
        image, iou=np.where(image.iou[..., :1] > 0, np.float32(0.72), 0),
        gt_labels=image.gt_labels[:1], gt_crowd=image.gt_crowd[:1], gt_area=image.gt_area[:1],
        gt_center=image.gt_center[:1], gt_overlap=image.gt_overlap[:1, :1],
    )  # fmt: skip
    row = layer_scores(evidence.changed([only]))[-1]
    assert row["ap50"] == pytest.approx(1)
    assert row["ap"] == pytest.approx(0.5)  # 5 of 10 thresholds


def test_calibration_errors_equal_sums_over_bins() -> None:
    generator = np.random.default_rng(0)
    scores, labels = generator.random(200), generator.integers(0, 2, 200)
    iou = np.where(generator.random(200) < scores, generator.uniform(0.5, 1, 200), 0)
    found = Calibration.from_arrays(scores, labels, iou, 150)
    d_ece = 0.0
    for low in np.arange(20) / 20:
        own = (scores >= low) & (scores < low + 0.05)
        if own.any():
            gap = abs(scores[own].mean() - (iou[own] > 0).mean())
            d_ece += own.sum() / 200 * gap
    assert found.d_ece == pytest.approx(d_ece, abs=1e-9)
    la_ece = []
    for label in range(2):
        error = 0.0
        for place in range(25):
            own = (labels == label) & (np.floor(scores * 25) == place)
            if own.any():
                true = iou[own] > 0
                precision, mean = true.mean(), iou[own][true].mean() if true.any() else 0
                error += (
                    own.sum() / (labels == label).sum() * abs(scores[own].mean() - precision * mean)
                )
        la_ece.append(error)
    assert found.la_ece == pytest.approx(np.mean(la_ece), abs=1e-9)


def test_fading_counts_objects_that_the_last_layer_loses(
    make_evidence: Callable[..., Evidence],
) -> None:
    healthy = make_evidence(20)
    images = []
    for place, image in enumerate(healthy.images):
        iou = image.iou.copy()
        if place < 5:
            iou[-1] = 0
        images.append(replace(image, iou=iou))
    faulty = healthy.changed(images)
    rows = layer_scores(faulty)
    assert [row["layer"] for row in rows] == [0, 1, 2, 3]
    assert rows[2]["fading"] == pytest.approx(0.25)
    assert rows[3]["fading"] == 0
    assert rows[1]["ap"] == pytest.approx(faulty.matched(1).values()[0])
    assert recall_of_layers(faulty) == {"recall_last_layer": 0.75, "recall_any_layer": 1}


def test_scores_are_compared_with_ious(make_evidence: Callable[..., Evidence]) -> None:
    # With the rule of DETR, each query gives one detection, with the score of its best class.
    generator = np.random.default_rng(0)
    images = []
    for image in make_evidence(8).images:
        shape = image.class_logits.shape
        logits = (image.class_logits + generator.normal(0, 3, shape)) / 4  # no equal scores
        images.append(replace(image, class_logits=logits.astype(np.float32)))
    evidence = replace(make_evidence(8), rule="detr").changed(images)
    scores, ious = [], []
    for image in images:
        odds = np.exp(image.class_logits[-1].astype(np.float64))
        probability = (odds / odds.sum(-1, keepdims=True))[:, :3]
        for query in range(10):
            label = probability[query].argmax()
            scores.append(probability[query, label])
            own = [image.iou[-1, query, gt] for gt in range(2) if image.gt_labels[gt] == label]
            ious.append(max(own, default=0))
    ranks = [
        np.array([sum(x < one for x in values) + sum(x <= one for x in values) for one in values])
        for values in (scores, ious)
    ]
    expected = np.corrcoef(*ranks)[0, 1]
    row = layer_scores(evidence)[-1]
    assert row["score_iou_correlation"] == pytest.approx(expected, abs=1e-9)
    assert row["ap"] < row["ap_ranked_by_iou"] <= 1
    # All objects are found, with the right class or not at all: only the order of scores is wrong.
    healthy = layer_scores(make_evidence(8))[-1]
    assert healthy["ap"] < healthy["ap_ranked_by_iou"] < 1


def test_exacerbation_counts_false_positives_whose_scores_rise(
    make_evidence: Callable[..., Evidence],
) -> None:
    generator = np.random.default_rng(0)
    images = []
    for image in make_evidence(6).images:
        shape = image.class_logits.shape
        logits = image.class_logits + generator.normal(0, 3, shape).astype(np.float32)
        quality = generator.uniform(0.3, 1, image.quality.shape).astype(np.float32)
        iou = np.where(generator.random(image.iou.shape) < 0.3, 0.7, image.iou)
        images.append(replace(image, class_logits=logits, quality=quality, iou=iou))
    evidence = make_evidence(6).changed(images)
    rises, count = np.zeros(4), 0
    for image in images:
        odds = np.exp(image.class_logits.astype(np.float64))
        scores = (odds / odds.sum(-1, keepdims=True))[..., :3] * image.quality[..., None]
        pairs = sorted(np.ndindex(10, 3), key=lambda x: -scores[(-1, *x)])
        free = set(range(len(image.gt_labels)))
        for query, label in pairs:
            own = [gt for gt in free if image.gt_labels[gt] == label]
            own = [gt for gt in own if image.iou[-1, query, gt] >= 0.5]
            if own:
                free.remove(max(own, key=lambda gt: (image.iou[-1, query, gt], gt)))
                continue
            count += 1
            rises += scores[:, query, label] < scores[-1, query, label]
    found = [row["exacerbation"] for row in layer_scores(evidence)]
    assert count > 50 and 0.2 < found[0] < 0.8
    assert found == pytest.approx(rises / count, abs=1e-9)
