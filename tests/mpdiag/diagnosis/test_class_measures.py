"""AP by class, confusions and overlapping GT, compared with cases counted by hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mpdiag.diagnosis.class_measures import class_measures
from mpdiag.diagnosis.evidence import Evidence


def test_classes_and_overlaps(make_evidence: Callable[..., Evidence]) -> None:
    healthy = make_evidence(30)
    images, expected, overlapping = [], np.zeros((3, 3), int), 0
    for place, image in enumerate(healthy.images):
        labels, overlap = image.gt_labels.copy(), image.gt_overlap.copy()
        if place % 3 == 0:
            expected[labels[0], (labels[0] + 1) % 3] += 1
            labels[0] = (labels[0] + 1) % 3
        if place < 6:
            overlap[0, 1] = overlap[1, 0] = 0.5
            overlapping += 2
        images.append(replace(image, gt_labels=labels, gt_overlap=overlap))
    faulty = healthy.changed(images)
    found = class_measures(faulty)
    counts = np.zeros((3, 3), int)
    for predicted, annotated, objects in found["confusions"]:
        counts[predicted, annotated] = objects
    assert (counts == expected).all() and counts.sum() == 10
    numbers = [objects for _, _, objects in found["confusions"]]
    assert numbers == sorted(numbers, reverse=True)
    assert found["overlapping_gt"] == overlapping / 60
    assert np.mean(found["class_ap"]) == pytest.approx(faulty.matched().values()[0])


def test_a_class_without_gt_has_no_ap(make_evidence: Callable[..., Evidence]) -> None:
    images = [replace(x, gt_labels=np.minimum(x.gt_labels, 1)) for x in make_evidence(8).images]
    found = class_measures(make_evidence(8).changed(images))
    assert found["class_ap"][2] is None and None not in found["class_ap"][:2]
