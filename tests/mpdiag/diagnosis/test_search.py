"""Faults that are planted in the evidence are found, and the AP at stake is what they cost."""

from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from mpdiag.diagnosis import probe, search
from mpdiag.diagnosis.checks.annotations import check_duplicate_gt, corrected_labels
from mpdiag.diagnosis.checks.layers import check_non_finite
from mpdiag.diagnosis.evidence import Evidence, ImageEvidence
from mpdiag.diagnosis.search import Search
from mpdiag.store.diagnosis import Diagnosis

MakeEvidence = Callable[..., Evidence]
Plant = Callable[[ImageEvidence], ImageEvidence]


OF_LAYERS = ("class_logits", "quality", "iou", "area", "center", "overlap", "repeated", "features")


def _diagnose(evidence: Evidence, resamples: int = 60) -> Diagnosis:
    with mock.patch.object(search, "RESAMPLES", resamples):
        return Search(evidence, 0.01).run()


def _swap_classes(image: ImageEvidence) -> ImageEvidence:
    return replace(image, class_logits=image.class_logits[..., [1, 0, 2, 3]])


def _kill_queries(image: ImageEvidence) -> ImageEvidence:
    logits = image.class_logits.copy()
    logits[:, :4] = [0, 0, 0, 20]
    return replace(image, class_logits=logits)


def _worsen_last_layer(image: ImageEvidence) -> ImageEvidence:
    iou = image.iou.copy()
    iou[-1] *= 0.7
    return replace(image, iou=iou)


def _empty_masks(image: ImageEvidence) -> ImageEvidence:
    values = [x.copy() for x in (image.iou, image.area, image.quality)]
    for value in values:
        value[-1, :5] = 0
    return replace(image, iou=values[0], area=values[1], quality=values[2])


def _overflow(image: ImageEvidence) -> ImageEvidence:
    area = image.area.copy()
    area[-1, :4] = np.nan
    return replace(image, area=area)


def _switch_masks(image: ImageEvidence) -> ImageEvidence:
    order = np.array([1, 0, 3, 2, *range(4, 10)])
    values = [x.copy() for x in (image.iou, image.area, image.quality)]
    for value in values:
        value[-1] = value[-1, order]
    return replace(
        image, iou=values[0], area=values[1], quality=values[2], moved=image.moved[:, order]
    )


def _randomize_scores(image: ImageEvidence) -> ImageEvidence:
    generator = np.random.default_rng(image.image_id)
    logits = image.class_logits.copy()
    logits[..., -1] = logits[..., :-1].max(-1) + generator.normal(0, 2, logits.shape[1])
    return replace(image, class_logits=logits)


def _ignore_small_objects(image: ImageEvidence) -> ImageEvidence:
    area, logits = image.area.copy(), image.class_logits / 3
    area[:] = 0.2
    small = image.iou[-1, :, 0] > 0  # the first object of each image
    area[:, small] = 0.01
    logits[:, small, -1] += 8
    logits[:, image.iou[-1].max(1) == 0, -1] -= 3  # these now have higher scores
    return replace(image, area=area, class_logits=logits, gt_area=np.array([80.0, 1600.0]))


def _raise_no_object(image: ImageEvidence) -> ImageEvidence:
    logits = image.class_logits.copy()
    logits[..., -1] += 30
    quality = image.quality.copy()
    quality[:, ::2] *= 0.1
    return replace(image, class_logits=logits, quality=quality)


@pytest.mark.parametrize(
    ("cause", "plant"),
    [
        ("class-confusion", _swap_classes),
        ("dead-queries", _kill_queries),
        ("late-layers", _worsen_last_layer),
        ("empty-masks", _empty_masks),
        ("non-finite", _overflow),
        ("query-switching", _switch_masks),
        ("small-objects", _ignore_small_objects),
        ("ranking", _randomize_scores),
    ],
)
def test_faults_of_the_model_are_found(
    make_evidence: MakeEvidence, cause: str, plant: Plant
) -> None:
    healthy = make_evidence()
    faulty = healthy.changed([plant(image) for image in healthy.images])
    cost = healthy.matched().values()[0] - faulty.matched().values()[0]
    assert cost > 0.02
    finding = _diagnose(faulty).findings[0]
    assert finding.cause == cause
    assert finding.at_stake == pytest.approx(cost, rel=0.35)
    assert finding.interval[0] < finding.at_stake < finding.interval[1]


def _overflow_everywhere(image: ImageEvidence) -> ImageEvidence:
    return replace(image, area=np.full_like(image.area, np.nan))


def _overflow_in_some_images(image: ImageEvidence) -> ImageEvidence:
    area = image.area.copy()
    area[-1, -1] = np.nan
    return replace(image, area=area) if image.image_id % 8 == 0 else image


@pytest.mark.parametrize("overflow", [_overflow_everywhere, _overflow_in_some_images])
def test_nan_is_the_first_finding_even_if_the_remedy_gains_nothing(
    make_evidence: MakeEvidence, overflow: Plant
) -> None:
    healthy = make_evidence()
    faulty = healthy.changed([_kill_queries(overflow(image)) for image in healthy.images])
    diagnosis = _diagnose(faulty)
    first, *others = diagnosis.findings
    assert first.cause == "non-finite"
    assert first.at_stake == pytest.approx(0, abs=diagnosis.threshold)
    assert "Observed, but costs less: non-finite." in diagnosis.summary
    found = [one.cause for one in others]
    assert found[:1] == ([] if overflow is _overflow_everywhere else ["dead-queries"])


def test_the_layer_of_nan_is_that_of_the_model(make_evidence: MakeEvidence) -> None:
    """A run has the predictions of the last layer only, which is layer 9 here."""
    images = []
    for image in make_evidence(2).images:
        area = image.area[-1:].copy()
        area[0, 4] = np.nan
        last = replace(image, **{name: getattr(image, name)[-1:] for name in OF_LAYERS})
        images.append(replace(last, area=area))
    evidence = replace(make_evidence(2), first_layer=9).changed(images)
    (candidate,) = check_non_finite(evidence)
    assert candidate.layers == (9,)
    assert candidate.queries == (4,)


def test_a_healthy_model_has_no_finding(make_evidence: MakeEvidence) -> None:
    for seed in range(2):
        assert _diagnose(make_evidence(seed=seed)).findings == []


def test_resamples_without_gt_say_nothing_about_a_gain(make_evidence: MakeEvidence) -> None:
    """One image of six has GT, and each resample with this image gains."""
    first, *others = map(_worsen_last_layer, make_evidence(6).images)
    empty = [
        replace(
            image, iou=image.iou[..., :0], gt_labels=image.gt_labels[:0],
            gt_crowd=image.gt_crowd[:0], gt_center=image.gt_center[:0],
            gt_area=image.gt_area[:0], gt_overlap=image.gt_overlap[:0, :0],
        )
        for image in others
    ]  # fmt: skip
    evidence = make_evidence().changed([first, *empty])
    finding = _diagnose(evidence, search.RESAMPLES).findings[0]
    assert finding.cause == "late-layers"
    assert finding.interval[0] > 0
    assert finding.confidence == 1


def _with_wrong_labels(evidence: Evidence, share: float) -> tuple[Evidence, int]:
    """Return the evidence with a share of wrong labels, and their number."""
    generator = np.random.default_rng(0)
    images, wrong = [], 0
    for image in evidence.images:
        labels = image.gt_labels.copy()
        chosen = generator.random(len(labels)) < share
        labels[chosen] = (labels[chosen] + generator.integers(1, 3, chosen.sum())) % 3
        wrong += int(chosen.sum())
        images.append(replace(image, gt_labels=labels))
    return evidence.changed(images), wrong


def test_wrong_labels_are_found(make_evidence: MakeEvidence) -> None:
    evidence, wrong = _with_wrong_labels(make_evidence(36), 0.2)
    finding = _diagnose(evidence).findings[0]
    assert finding.cause == "label-noise"
    assert finding.evidence["objects"] == wrong


def test_the_model_is_wrong_if_most_labels_would_be(make_evidence: MakeEvidence) -> None:
    evidence, _ = _with_wrong_labels(make_evidence(36), 0.6)
    assert "label-noise" not in {finding.cause for finding in _diagnose(evidence).findings}


def test_a_wrong_label_gets_another_class() -> None:
    """Wrong labels are any other class, here one of two."""
    probability = np.array([[0.4, 0.25, 0.35], [0.4, 0.25, 0.35], [0.01, 0.98, 0.01]])
    # The first: 0.5 / 2 * 0.6 < 0.5 * 0.4, but 0.6 / 2 * 0.6 > 0.4 * 0.4. Its label is the best.
    labels = np.array([0, 1, 1])
    assert corrected_labels(probability, labels, 0.5).tolist() == [0, 0, 1]
    assert corrected_labels(probability, labels, 0.6).tolist() == [2, 0, 1]


def test_missing_labels_are_found(make_evidence: MakeEvidence) -> None:
    healthy = make_evidence()
    images = []
    for place, image in enumerate(healthy.images):
        kept = [0] if place % 3 == 0 else [0, 1]
        logits = image.class_logits.copy()
        logits[..., :3] *= 3  # certain
        images.append(
            replace(
                image, class_logits=logits, iou=image.iou[..., kept],
                quality=np.full_like(image.quality, 0.97), gt_labels=image.gt_labels[kept],
                gt_crowd=image.gt_crowd[kept], gt_center=image.gt_center[kept],
                gt_area=image.gt_area[kept], gt_overlap=image.gt_overlap[np.ix_(kept, kept)],
            )
        )  # fmt: skip
    finding = _diagnose(healthy.changed(images)).findings[0]
    assert finding.cause == "missing-labels"
    assert finding.evidence["objects"] == 8
    assert set(finding.evidence["images"]) == {
        image.image_id for place, image in enumerate(healthy.images) if place % 3 == 0
    }


def test_objects_that_are_annotated_twice_are_found(make_evidence: MakeEvidence) -> None:
    healthy = make_evidence()
    twice = [0, 0, 1]
    images = [
        replace(
            image, iou=image.iou[..., twice], gt_labels=image.gt_labels[twice],
            gt_crowd=image.gt_crowd[twice], gt_center=image.gt_center[twice],
            gt_area=image.gt_area[twice], gt_overlap=image.gt_overlap[np.ix_(twice, twice)],
        )
        for image in healthy.images
    ]  # fmt: skip
    finding = _diagnose(healthy.changed(images)).findings[0]
    assert finding.cause == "overlapping-labels"
    assert finding.evidence["objects"] == 24


def test_duplicates_are_suppressed(make_evidence: MakeEvidence) -> None:
    healthy = make_evidence()
    copied = [*range(10), *range(10)]
    images = [
        replace(
            image, class_logits=image.class_logits[:, copied], quality=image.quality[:, copied],
            iou=image.iou[:, copied], area=image.area[:, copied], center=image.center[:, copied],
            overlap=np.ones_like(image.overlap[:, copied]),
            repeated=image.repeated[:, copied][..., copied],
            moved=image.moved[np.ix_(copied, copied)], features=None,
            ignored=image.ignored[copied],
        )
        for image in healthy.images
    ]  # fmt: skip
    faulty = healthy.changed(images)
    finding = _diagnose(faulty).findings[0]
    assert finding.cause == "duplicate-queries"
    assert finding.queries == tuple(range(10, 20))
    cost = healthy.matched().values()[0] - faulty.matched().values()[0]
    assert finding.at_stake >= cost - 1e-6


def test_heads_are_trained_on_fewer_layers_of_many_queries(
    make_evidence: MakeEvidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence = make_evidence(24)  # 4 layers of 240 queries
    shapes = []
    for rows in (1_000, 500, 100):
        monkeypatch.setattr(probe, "MAX_ROWS", rows)
        features = probe.Features(evidence)
        shapes.append(features.values.shape[1])
        assert features.values.shape[:2] == features.targets.shape[:2]
        assert all(odds.shape == (10,) for odds in probe.fit_objectness(evidence, features))
    assert shapes == [4, 2, 1]


def test_overlapping_gt_of_different_classes_are_no_repetitions(
    make_evidence: MakeEvidence,
) -> None:
    evidence = make_evidence(4)
    images = []
    for image, labels in zip(evidence.images, ([0, 1], [2, 0], [1, 1], [0, 2]), strict=True):
        overlap = np.full_like(image.gt_overlap, 0.9)
        images.append(replace(image, gt_labels=np.array(labels), gt_overlap=overlap))
    (candidate,) = check_duplicate_gt(evidence.changed(images))
    assert candidate.evidence["objects"] == 1
    assert candidate.edit is not None
    kept = [len(image.gt_labels) for image in candidate.edit(evidence.changed(images)).images]
    assert kept == [2, 2, 1, 2]
