"""AP against pycocotools on files, and cases by hand."""

import json
import math
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from mpdiag.metrics import AveragePrecision, CocoAP
from mpdiag.metrics.weighted_ap import WeightedAP

HEIGHT, WIDTH = 130, 150


@dataclass
class Found:
    """Detections of one image."""

    scores: Tensor
    labels: Tensor
    masks: Tensor


@dataclass
class Image:
    """GT and detections of one image; `areas` as annotated."""

    found: Found
    masks: Tensor
    labels: Tensor
    crowd: Tensor
    areas: Tensor

    def add_to(self, metric: AveragePrecision, image_id: int) -> None:
        metric.update(image_id, self.found, self.masks, self.labels, self.crowd, self.areas)


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return (count, 4) y, x, height, width of all three COCO sizes."""
    sides = rng.choice([6, 20, 45, 110], (count, 2)) + rng.integers(0, 12, (count, 2))
    corners = rng.integers(0, np.maximum(1, (HEIGHT, WIDTH) - sides))
    return np.concatenate([corners, sides], 1)


def filled(rows: np.ndarray) -> Tensor:
    masks = torch.zeros(len(rows), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (y, x, height, width) in zip(masks, rows.tolist(), strict=True):
        mask[max(y, 0) : y + height, max(x, 0) : x + width] = True
    return masks


def image(seed: int) -> Image:
    """Overlapping GT, some crowds; duplicate detections near them and elsewhere, with ties."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 9))
    truth, labels = boxes(rng, count), rng.integers(0, 4, count)
    near = np.repeat(truth, 2, 0) + rng.integers(-3, 4, (2 * count, 4))
    rows = np.concatenate([near, boxes(rng, int(rng.integers(0, 6)))])
    guesses = np.concatenate([labels.repeat(2), rng.integers(0, 4, len(rows) - 2 * count)])
    masks = filled(truth)
    return Image(
        Found(
            torch.from_numpy(rng.integers(1, 20, len(rows)) / 20),
            torch.from_numpy(guesses),
            filled(rows),
        ),
        masks,
        torch.from_numpy(labels),
        torch.from_numpy(rng.random(count) < 0.2),
        masks.sum((1, 2)) * 0.95,
    )


def metric_of(images: dict[int, Image], classes=range(4)) -> AveragePrecision:
    metric = AveragePrecision(classes)
    for image_id, one in images.items():
        one.add_to(metric, image_id)
    return metric


def coco_rle(mask: Tensor) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def pycocotools_stats(folder: Path, images: dict[int, Image], classes=range(4)) -> list[float]:
    """AP, AP50, AP75, AP_S, AP_M, AP_L through files, categories numbered from 10."""
    annotations, results = [], []
    for image_id, one in sorted(images.items()):
        for row, label in enumerate(one.labels.tolist()):
            if label in classes:
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 10,
                     "segmentation": coco_rle(one.masks[row]), "iscrowd": int(one.crowd[row]),
                     "area": float(one.areas[row]), "bbox": [0, 0, 1, 1]}
                )  # fmt: skip
        for row, label in enumerate(one.found.labels.tolist()):
            if label in classes:
                results.append(
                    {"image_id": image_id, "category_id": label + 10,
                     "segmentation": coco_rle(one.found.masks[row]),
                     "score": float(one.found.scores[row])}
                )  # fmt: skip
    content = {
        "info": {},
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in images],
        "categories": [{"id": label + 10, "name": str(label)} for label in classes],
        "annotations": annotations,
    }
    (folder / "truth.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))
    truth = COCO(str(folder / "truth.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [math.nan if value == -1 else float(value) for value in evaluation.stats[:6]]


def six(scores: CocoAP) -> list[float]:
    return [
        scores.ap, scores.ap50, scores.ap75, scores.ap_small, scores.ap_medium, scores.ap_large
    ]  # fmt: skip


@pytest.mark.parametrize("first", [0, 100, 200])
def test_equals_pycocotools_on_files(first: int, tmp_path: Path, capfd) -> None:
    images = {9 * seed % 31: image(first + seed) for seed in range(12)}
    expected = pycocotools_stats(tmp_path, images)
    capfd.readouterr()
    found = metric_of(images).compute()
    assert capfd.readouterr() == ("", "")
    assert six(found) == pytest.approx(expected, abs=1e-11)
    assert 0.05 < found.ap < found.ap50 < 0.95 and not np.isnan(expected).any()
    assert np.nanmean(list(found.per_class.values())) == pytest.approx(found.ap)


def test_other_classes_do_not_count(tmp_path: Path) -> None:
    images = {seed: image(seed) for seed in range(8)}
    found = metric_of(images, classes=[3, 1]).compute()
    assert six(found) == pytest.approx(pycocotools_stats(tmp_path, images, [1, 3]), abs=1e-11)
    assert set(found.per_class) == {1, 3}


def test_shards_and_order_do_not_matter() -> None:
    images = {seed: image(seed) for seed in range(10)}
    backwards = dict(reversed(images.items()))
    evens = metric_of({i: one for i, one in backwards.items() if i % 2 == 0})
    odds = metric_of({i: one for i, one in backwards.items() if i % 2})
    assert (odds + metric_of({}) + evens).compute() == metric_of(images).compute()


def test_detections_equal_to_gt_are_perfect() -> None:
    metric = AveragePrecision(range(4))
    for seed in range(10):
        one = image(seed)
        rows = ~one.crowd
        perfect = Found(torch.full((int(rows.sum()),), 0.3), one.labels[rows], one.masks[rows])
        metric.update(seed, perfect, one.masks, one.labels, one.crowd)
    assert six(metric.compute()) == [1.0] * 6


def test_one_correct_detection_has_ap_1() -> None:
    masks = filled(np.array([[3, 3, 20, 20]]))
    label = torch.tensor([2])
    metric = AveragePrecision(range(4))
    metric.update(1, Found(torch.tensor([0.1]), label, masks), masks, label)
    assert metric.compute().ap == 1.0


def test_detections_in_a_crowd_are_no_false_positives() -> None:
    masks = filled(np.array([[0, 0, 60, 60], [80, 80, 30, 30]]))
    labels, crowd = torch.tensor([0, 0]), torch.tensor([True, False])
    rows = filled(np.array([[5, 5, 20, 20], [30, 30, 20, 20], [80, 80, 30, 30]]))
    found = Found(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 0]), rows)
    with_crowd, without = AveragePrecision([0]), AveragePrecision([0])
    with_crowd.update(1, found, masks, labels, crowd)
    without.update(1, found, masks[1:], labels[1:])
    assert with_crowd.compute().ap == 1.0
    assert without.compute().ap == pytest.approx(1 / 3)


def test_no_detections_and_no_gt() -> None:
    nothing = Found(torch.empty(0), torch.empty(0, dtype=torch.int64), filled(np.empty((0, 4))))
    one = image(1)
    missed = AveragePrecision(range(4))
    missed.update(1, nothing, one.masks, one.labels)
    assert missed.compute().ap == 0
    unneeded = AveragePrecision(range(4))
    unneeded.update(1, one.found, nothing.masks, nothing.labels)
    assert math.isnan(unneeded.compute().ap)
    assert math.isnan(AveragePrecision(range(4)).compute().ap)


def test_invalid_images_are_errors() -> None:
    metric = metric_of({5: image(1)})
    with pytest.raises(ValueError, match="image 5 was added twice"):
        image(2).add_to(metric, 5)
    with pytest.raises(ValueError, match="image 5 was added twice"):
        metric + metric_of({5: image(2)})
    with pytest.raises(ValueError, match="different classes"):
        metric + AveragePrecision([0])
    one = image(1)
    with pytest.raises(ValueError, match="image 6 has detections of size"):
        metric.update(6, one.found, one.masks[:, 1:], one.labels)


def test_crowded_images(tmp_path: Path, capfd) -> None:
    """Many detections of each GT, more than the 100 that count, with equal scores and IoU."""
    rng = np.random.default_rng(0)
    images = {}
    for image_id in range(2):
        truth = boxes(rng, 8).repeat(2, 0)  # each GT twice
        rows = truth[rng.integers(0, 16, 130)] + rng.integers(-2, 3, (130, 4))
        masks = filled(truth)
        images[image_id] = Image(
            Found(
                torch.from_numpy(rng.integers(1, 9, 130) / 9),
                torch.from_numpy(rng.integers(0, 10, 130) // 9),  # nine in ten of one class
                filled(rows),
            ),
            masks,
            torch.from_numpy(rng.integers(0, 10, 16) // 9),
            torch.from_numpy(rng.random(16) < 0.2),
            masks.sum((1, 2)).double(),
        )
    expected = pycocotools_stats(tmp_path, images, range(2))
    assert six(metric_of(images, range(2)).compute()) == pytest.approx(expected, abs=1e-11)


def test_weighted_ap_is_that_of_images_that_are_added_again() -> None:
    images = [image(seed) for seed in range(6)]
    rng = np.random.default_rng(0)
    for one in images:  # copies of an image have other places among equal scores
        count = len(one.found.scores)
        one.found.scores = torch.from_numpy(rng.permutation(count) + rng.random(count)) / count
    classes = sorted({int(label) for one in images for label in one.labels} | {99})
    metric = AveragePrecision(classes)
    for number, one in enumerate(images):
        one.add_to(metric, number)
    draws = rng.integers(0, 3, (12, len(images)))
    draws[0] = 1
    draws[1] = 0  # no image, no AP
    draws[2] = [3, 0, 0, 0, 0, 0]
    values = WeightedAP.from_matches(metric.images, classes).values(draws.astype(float))
    for row, value in zip(draws[draws.any(1)], values[draws.any(1)], strict=True):
        repeated = AveragePrecision(classes)
        for number, times in enumerate(row):
            for copy in range(times):
                images[number].add_to(repeated, 10 * number + copy)
        assert value == pytest.approx(repeated.compute().ap, abs=1e-10)
    assert values[0] == pytest.approx(metric.compute().ap, abs=1e-10)
    assert np.isnan(values[1]) and len(set(values.round(6))) > 8


def test_no_masks_are_kept() -> None:
    images = {seed: image(seed) for seed in range(6)}
    detections = sum(len(one.found.scores) for one in images.values())
    counted = sum(4 * len(one.labels) for one in images.values())  # at most, in four area ranges
    kept = metric_of(images).images
    size = sum(getattr(one, name).nbytes for one in kept for name in type(one).__slots__)
    assert 26 * detections < size <= 26 * detections + 16 * counted
    assert len(pickle.dumps(metric_of(images))) < size + 6 * 1500
