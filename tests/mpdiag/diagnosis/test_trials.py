"""Changes to the model are tried on images that have a score."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from mpdiag.diagnosis.changes import Changes
from mpdiag.diagnosis.evidence import Evidence, ImageEvidence
from mpdiag.diagnosis.trials import SCREENED, Trials


def without_gt(image: ImageEvidence) -> ImageEvidence:
    return replace(
        image,
        iou=image.iou[..., :0],
        gt_labels=image.gt_labels[:0],
        gt_crowd=image.gt_crowd[:0],
        gt_center=image.gt_center[:0],
        gt_area=image.gt_area[:0],
        gt_overlap=image.gt_overlap[:0, :0],
    )


def test_images_without_gt_are_left_out(make_evidence: Callable[..., Evidence]) -> None:
    images = list(make_evidence(40).images)
    images[:20] = map(without_gt, images[:20])
    evidence = make_evidence().changed(images)
    indices = range(100, 140)
    asked: list[int] = []

    def collect(changes: Changes, *, indices: list[int], **options: bool) -> Evidence:
        asked.extend(indices)
        return evidence.changed([images[index - 100] for index in indices])

    collector: Any = SimpleNamespace(indices=indices, collect=collect)
    trials = Trials(collector, evidence)
    expected = [image.image_id for image in images[20 : 20 + SCREENED]]
    assert [image.image_id for image in trials.first.images] == expected
    assert trials.best("input-scale", {"2 x": Changes(scale=2.0)}) is None  # it gains nothing
    assert trials.gains == {"input-scale 2 x": 0}
    assert asked == list(indices[20 : 20 + SCREENED])
