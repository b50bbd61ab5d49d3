"""Evidence after a remedy equals evidence that is measured on the masks after the remedy."""

from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from mpdiag.data import GroundTruth
from mpdiag.diagnosis.checks.layers import check_self_attention, check_switched_masks
from mpdiag.diagnosis.checks.query_supply import suppressed
from mpdiag.diagnosis.collect import image_evidence
from mpdiag.diagnosis.evidence import Evidence, ImageEvidence
from mpdiag.diagnosis.facts import ModelFacts
from mpdiag.models import ImageSizes
from mpdiag.recording import InstanceRule

LAYERS, QUERIES, SIDE = 3, 6, 16


@pytest.fixture
def masks() -> Tensor:
    """Mask logits (S, N, h, w) of boxes, some of which are equal in a layer."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.full((LAYERS, QUERIES, SIDE, SIDE), -5.0)
    for layer in range(LAYERS):
        for query in range(QUERIES):
            top, left = torch.randint(0, 8, (2,), generator=generator).tolist()
            masks[layer, query, top : top + 8, left : left + 6] = 5
        masks[layer, layer + 1] = masks[layer, layer]
    return masks


def _measure(masks: Tensor) -> ImageEvidence:
    gt = torch.zeros(2, 4 * SIDE, 4 * SIDE, dtype=torch.bool)
    gt[0, :32, :32], gt[1, 32:, 32:] = True, True
    truth = GroundTruth(
        gt, torch.tensor([0, 0]), torch.zeros(2, dtype=torch.bool), torch.tensor([1024.0, 1024.0])
    )
    classes = torch.zeros(*masks.shape[:2], 3)
    classes[..., 0] = 8 - torch.arange(masks.shape[1])  # the first query is the surest
    sizes = ImageSizes((64, 64), (64, 64), (64, 64))
    finite = torch.ones(masks.shape[:2], dtype=torch.bool)
    return image_evidence(1, classes, masks, finite, sizes, truth, None)


def _assert_equal(found: ImageEvidence, expected: ImageEvidence, *but: str) -> None:
    for one in fields(ImageEvidence):
        if one.name not in but:
            np.testing.assert_array_equal(
                getattr(found, one.name), getattr(expected, one.name), err_msg=one.name
            )


def test_repeated_masks_are_those_that_overlap_by_three_quarters(masks: Tensor) -> None:
    image = _measure(masks)
    for layer in range(LAYERS):
        on = [mask > 0 for mask in masks[layer]]
        iou = np.array([[float((a & b).sum() / (a | b).sum()) for a in on] for b in on])
        np.testing.assert_array_equal(image.repeated[layer], iou >= 0.75)
        np.testing.assert_allclose(image.overlap[layer], (iou - np.eye(QUERIES)).max(1))


def test_an_earlier_layer_has_its_own_overlaps(masks: Tensor) -> None:
    image = _measure(masks)
    for layer in range(LAYERS):
        stopped = image.with_layer(layer)
        _assert_equal(stopped, _measure(masks[: layer + 1]), "moved")
        assert suppressed(stopped, "mask2former")[layer + 1]  # the copy of this layer
        if layer < LAYERS - 1:
            assert list(check_switched_masks(Evidence([stopped], 2))) == []
    np.testing.assert_array_equal(stopped.moved, image.moved)  # of the last layer


@pytest.mark.parametrize("rule", ["mask2former", "detr", "sigmoid"])
def test_scores_of_all_pairs_are_those_of_the_detections(masks: Tensor, rule: InstanceRule) -> None:
    image = _measure(masks)
    logits = np.random.default_rng(0).normal(size=image.class_logits.shape).astype(np.float32)
    quality = np.linspace(0.5, 1, QUERIES, dtype=np.float32).repeat(LAYERS)
    image = replace(image, class_logits=logits, quality=quality.reshape(QUERIES, LAYERS).T)
    for layer in range(LAYERS):
        found = image.detections(rule, layer)
        scores = image.class_scores(rule, layer)[found.queries, found.labels]
        np.testing.assert_allclose(scores, found.scores, rtol=1e-6)


def test_masks_are_suppressed_in_the_order_of_the_scores(masks: Tensor) -> None:
    """Queries 0 and 1 have one mask; the quality of a mask is no part of the scores of DETR."""
    image = _measure(masks).with_layer(0)
    assert suppressed(image, "detr").tolist()[:2] == [False, True]
    quality = image.quality.copy()
    quality[0, 0] = 0.1
    image = replace(image, quality=quality)
    assert suppressed(image, "mask2former").tolist()[:2] == [True, False]
    assert suppressed(image, "detr").tolist()[:2] == [False, True]
    # Two classes of 4 against no-object of 0: the softmax gives 0.495, a sigmoid of each 0.98.
    logits = np.tile(np.array([0, 0, 9], np.float32), (QUERIES, 1))
    logits[:2] = [4, 4, 0], [2, -9, 0]
    image = image.with_logits(logits)
    assert suppressed(image, "detr").tolist()[:2] == [True, False]
    assert suppressed(image, "sigmoid").tolist()[:2] == [False, True]


def test_exchanged_masks_are_measured_as_such(masks: Tensor) -> None:
    order = np.roll(np.arange(QUERIES), 1)
    found = _measure(masks).with_masks_of(np.full(QUERIES, LAYERS - 1), order)
    _assert_equal(found, _measure(torch.cat([masks[:-1], masks[-1:, order]])))


def test_masks_of_several_layers(masks: Tensor) -> None:
    layers, queries = np.array([2, 0, 0, 1, 2, 2]), np.arange(QUERIES)
    image = _measure(masks)
    found = image.with_masks_of(layers, queries)
    measured = _measure(torch.cat([masks[:-1], masks[layers, queries][None]]))
    _assert_equal(found, measured, "overlap", "repeated", "moved")
    same = layers[:, None] == layers
    np.testing.assert_array_equal(found.repeated[-1], measured.repeated[-1] & same)
    assert found.repeated[-1][1, 0] == 0 and found.repeated[-1][0, 0]
    last = layers == LAYERS - 1
    np.testing.assert_array_equal(found.moved[:, last], image.moved[:, last])
    np.testing.assert_array_equal(found.moved[:, ~last], np.eye(QUERIES)[:, ~last])


def test_without_self_attention_the_copies_of_the_layer_are_suppressed(masks: Tensor) -> None:
    """Without any self-attention, only layer 0 and suppression in a layer are candidates."""
    masks[:] = -5
    masks[0, :2, :8, :8] = 5
    masks[0, 2, 8:, 8:] = 5  # the copy of the first GT has a higher score than the second GT
    facts = ModelFacts(self_attention=np.zeros(LAYERS - 1))
    evidence = Evidence([_measure(masks)], 2, facts=facts)
    (candidate,) = check_self_attention(evidence)
    assert isinstance(candidate.edit, partial)
    assert candidate.edit.keywords == {"layer": 0, "without_duplicates": True}
    remedied = candidate.edit(evidence).images[0].class_logits[-1]
    assert (remedied[1, :-1] == 0).all() and remedied[1, -1] == 50
    np.testing.assert_array_equal(remedied[0], evidence.images[0].class_logits[0, 0])
