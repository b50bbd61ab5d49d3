"""PQ and mIoU of evidence, of resampled images and of remedies, against the evaluators of tasks."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.analysis.adapter import LayerPredictions, PreprocessedImage
from mpdiag.data import SegmentationDataset, load_dataset
from mpdiag.diagnosis.batch_store import BatchStore
from mpdiag.diagnosis.collect import Collector
from mpdiag.diagnosis.evidence import Evidence
from mpdiag.diagnosis.kept_masks import MAX_CELLS, KeptMasks
from mpdiag.diagnosis.search import Search, resampled
from mpdiag.evaluation import Detections, build_evaluator
from mpdiag.models import ImageSizes

LAYERS, QUERIES = 2, 24
IMAGES = 2
Predictions = dict[int, tuple[Tensor, Tensor, ImageSizes]]


@pytest.fixture(params=["panoptic", "semantic"])
def data(small_data: SegmentationDataset, request: pytest.FixtureRequest) -> SegmentationDataset:
    return load_dataset("synthetic", root=small_data.image_root.parents[1], task=request.param)


@pytest.fixture
def predictions() -> Predictions:
    """Class logits (L + 1, N, K + 1), mask logits and sizes of each image, once collected."""
    return {}


@pytest.fixture
def own(
    data: SegmentationDataset,
    collector: Collector,
    predictions: Predictions,
    monkeypatch: pytest.MonkeyPatch,
) -> Collector:
    """A collector of predictions that are the GT with errors, fewer of them in each layer."""

    def predict(
        batch: Sequence[PreprocessedImage], targets: object, *, attention: bool
    ) -> LayerPredictions:
        made = [_predict(image, data) for image in batch]
        for image, one in zip(batch, made, strict=True):
            predictions[image.sample.image_id] = (*one, image.sizes)
        classes, masks = (torch.stack(x, dim=1) for x in zip(*made, strict=True))
        return LayerPredictions(classes, masks)

    monkeypatch.setattr(collector.adapter, "predict", predict)
    return Collector(collector.adapter, data, range(IMAGES), collector.device)


def _predict(image: PreprocessedImage, data: SegmentationDataset) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(image.sample.image_id)
    truth = data.ground_truth(data.image_ids.index(image.sample.image_id))
    grid = image.padded[0] // 4, image.padded[1] // 4
    small = F.interpolate(truth.masks[None].float(), size=grid, mode="area")[0]
    masks = torch.full((QUERIES, *grid), -3.0)
    logits = torch.full((QUERIES, len(data.classes) + 1), -2.0)
    logits[:, -1] = 3
    for query, (mask, label) in enumerate(zip(small, truth.labels.tolist(), strict=True)):
        masks[query] = 12 * mask - 6
        logits[query, label], logits[query, -1] = 6, -2
    made = []
    for layer in range(LAYERS + 1):
        noise = torch.randn(masks.shape, generator=generator) * (8 - 2.5 * layer)
        made.append((masks + noise).half().float())
    return logits.expand(LAYERS + 1, -1, -1), torch.stack(made)


def _evaluate(
    data: SegmentationDataset,
    predictions: Predictions,
    layer: int = LAYERS,
    times: Sequence[int] = (1,) * IMAGES,
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda *one: one,
) -> float | None:
    """Return the score of the evaluator of the task; image i is added `times[i]` times."""
    evaluator = build_evaluator(data)
    for place, count in enumerate(times):
        classes, masks, sizes = predictions[data.image_ids[place]]
        detections = evaluator.postprocess(*change(classes[layer], masks[layer]), sizes)
        for _ in range(count):
            evaluator.update(place, detections, data.ground_truth(place))
    return evaluator.scores()[evaluator.primary_metric]


def test_the_score_is_that_of_the_task(
    data: SegmentationDataset, own: Collector, predictions: Predictions
) -> None:
    evidence = own.collect(every_layer=True)
    expected = [_evaluate(data, predictions, layer) for layer in range(LAYERS + 1)]
    assert [evidence.score(layer) for layer in range(LAYERS + 1)] == pytest.approx(expected)
    assert len(set(expected)) == LAYERS + 1 and expected[-1] is not None
    assert 0.2 < expected[-1] < 0.95


def test_a_weight_counts_like_repeated_images(
    data: SegmentationDataset, own: Collector, predictions: Predictions
) -> None:
    scored = own.collect(every_layer=True).scored()
    times = [(1, 1), (2, 0), (0, 2), (3, 1)]
    found = scored.values(np.array(times, np.float64))
    assert found == pytest.approx([_evaluate(data, predictions, times=one) for one in times])
    assert len(np.unique(found)) == len(times)
    sample = resampled(lambda weights: scored.values(weights), scored)
    assert {round(x, 9) for x in sample} == {round(x, 9) for x in found[:3]}


def test_remedies_move_the_masks(
    data: SegmentationDataset, own: Collector, predictions: Predictions
) -> None:
    evidence = own.collect(every_layer=True)
    order = np.roll(np.arange(QUERIES), 1)
    last = np.full(QUERIES, LAYERS)
    moved = evidence.changed([one.with_masks_of(last, order) for one in evidence.images])
    switched = _evaluate(data, predictions, change=lambda classes, masks: (classes, masks[order]))
    assert moved.score() == pytest.approx(switched)
    earlier = evidence.changed([one.with_layer(1) for one in evidence.images])
    assert earlier.score() == pytest.approx(_evaluate(data, predictions, layer=1))
    assert moved.score() != pytest.approx(evidence.score())
    # A query that is not finite predicts nothing.
    areas = [one.area.copy() for one in evidence.images]
    for area in areas:
        area[-1, :2] = np.nan
    pairs = zip(evidence.images, areas, strict=True)
    without = evidence.changed([replace(one, area=area) for one, area in pairs])
    rest = _evaluate(data, predictions, change=lambda classes, masks: (classes[2:], masks[2:]))
    assert without.score() == pytest.approx(rest)


def test_an_image_without_a_finite_query_has_no_prediction(
    data: SegmentationDataset, own: Collector, predictions: Predictions
) -> None:
    """Its GT are all of class 0, which the highest of no scores would be."""
    evidence = own.collect(every_layer=True)
    first, second = evidence.images
    nothing = replace(
        first, area=np.full_like(first.area, np.nan), gt_labels=np.zeros_like(first.gt_labels)
    )
    evaluator = build_evaluator(data)
    truth = data.ground_truth(0)
    truths = replace(truth, labels=torch.zeros_like(truth.labels)), data.ground_truth(1)
    classes, masks, sizes = predictions[second.image_id]
    found = evaluator.postprocess(classes[LAYERS], masks[LAYERS], sizes)
    for place, one in enumerate((Detections.none(sizes.output), found)):
        evaluator.update(place, one, truths[place])
    expected = evaluator.scores()[evaluator.primary_metric]
    assert evidence.changed([nothing, second]).score() == pytest.approx(expected)


def test_a_diagnosis_is_in_the_score_of_the_task(data: SegmentationDataset, own: Collector) -> None:
    evidence = own.collect(every_layer=True)
    classes = len(data.classes)
    swapped = np.roll(np.arange(classes), 1)
    images = [
        one.with_logits(one.class_logits[-1][:, [*swapped, classes]]) for one in evidence.images
    ]
    faulty = evidence.changed(images)
    diagnosis = Search(faulty, 0.01).run()
    first = diagnosis.findings[0]
    assert first.cause == "class-confusion"
    assert first.at_stake == pytest.approx(evidence.score() - faulty.score())
    written = diagnosis.as_json()["score"]
    assert written == {"name": evidence.scorer.name, "value": faulty.score()}
    scores = [layer[evidence.scorer.name] for layer in diagnosis.layers]
    assert scores[-1] == faulty.score() and scores[0] == evidence.score(0)


def test_a_threshold_that_drops_right_segments_is_found(
    data: SegmentationDataset, own: Collector
) -> None:
    """All objects get a class probability of 0.7, which 0.8 drops and 0.6 keeps; PQ only."""
    evidence = own.collect(every_layer=True)
    others = len(data.classes)  # with no-object
    scale = np.log(0.7 / 0.3 * others) / 8  # logits are 6 and -2
    images = [one.with_logits(scale * one.class_logits[-1]) for one in evidence.images]
    unsure = evidence.changed(images)
    highest = np.concatenate([one.probabilities[:, :-1].max(1) for one in unsure.images])
    assert highest.max() == pytest.approx(0.7)
    found = {one.cause: one for one in Search(unsure, 0.01).run().findings}
    if data.task == "semantic":
        assert "segment-threshold" not in found
        return
    assert unsure.score() == 0
    finding = found["segment-threshold"]
    assert finding.evidence["object_mask_threshold"] == 0.6
    assert finding.at_stake == pytest.approx(evidence.score())
    before = [one.cause for one in Search(evidence, 0.01).run().findings]
    assert "segment-threshold" not in before


def test_masks_are_stored(own: Collector, tmp_path: Path) -> None:
    store = BatchStore(tmp_path / "batches", own.adapter, own.data.task)
    own.store = store
    evidence: Evidence = own.collect(every_layer=True)
    (path,) = store.directory.iterdir()
    found = store.read(path, IMAGES)
    assert found is not None
    for image, again in zip(evidence.images, found[0], strict=True):
        assert image.masks is not None and again.masks is not None
        for one in fields(KeptMasks):
            first: Any = getattr(image.masks, one.name)
            np.testing.assert_array_equal(first, getattr(again.masks, one.name))


def test_large_masks_are_reduced(own: Collector) -> None:
    truth = own.data.ground_truth(0)
    masks = truth.masks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    side = masks.shape[-1]
    large = replace(truth, masks=masks)
    sizes = ImageSizes((side, side), (side, side), (side, side))
    kept = KeptMasks.keep(torch.zeros(1, 2, side // 4, side // 4), sizes, large)
    assert kept.logits.shape == (2, MAX_CELLS, MAX_CELLS)
    assert kept.gt.shape == kept.image_sizes.output == (4 * MAX_CELLS, 4 * MAX_CELLS)
    own_share = [(kept.gt == number).mean() for number in range(1, len(masks) + 1)]
    assert own_share == pytest.approx(masks.double().mean((1, 2)).tolist(), abs=1e-9)


def test_a_segment_that_is_not_sampled_does_not_count(own: Collector) -> None:
    """A segment of one pixel of an image of twice as many pixels as are scored on a side."""
    evidence = own.collect(every_layer=True)
    image, truth = evidence.images[0], own.data.ground_truth(0)
    assert image.masks is not None
    side = 8 * MAX_CELLS
    times = side // truth.masks.shape[-1]
    masks = truth.masks.repeat_interleave(times, 1).repeat_interleave(times, 2)
    pixel = torch.zeros_like(masks[:1])
    pixel[0, 0, 0] = True
    logits = torch.from_numpy(image.masks.logits).float().unflatten(0, (LAYERS + 1, QUERIES))
    sizes = ImageSizes((side, side), (side, side), (side, side))

    def score(masks: Tensor, labels: Tensor) -> float:
        kept = KeptMasks.keep(logits, sizes, replace(truth, masks=masks, labels=labels))
        crowd = np.zeros(len(labels), np.bool_)
        new = replace(image, masks=kept, gt_labels=labels.numpy(), gt_crowd=crowd)
        return evidence.changed([new]).score()

    disjoint, labels = masks & ~pixel, truth.labels
    assert 0.2 < score(disjoint, labels) < 1
    more = score(torch.cat([disjoint, pixel]), torch.cat([labels, labels[:1]]))
    assert more == score(disjoint, labels)


def test_infinite_logits_are_kept_as_large_ones(own: Collector) -> None:
    truth = own.data.ground_truth(0)
    side = truth.masks.shape[-1]
    sizes = ImageSizes((side, side), (side, side), (side, side))
    logits = torch.full((1, 2, side // 4, side // 4), torch.inf)
    logits[0, 1, 0, 0] = -torch.inf
    kept = KeptMasks.keep(logits, sizes, truth)
    assert np.isfinite(kept.logits).all()
    np.testing.assert_array_equal(kept.logits > 0, logits[0].numpy() > 0)
