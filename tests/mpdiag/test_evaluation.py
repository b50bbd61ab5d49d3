"""Evaluators of all tasks, against pycocotools on the annotation file and by brute force."""

import contextlib
import io
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from mpdiag import rle
from mpdiag.data import SegmentationDataset, coco_dataset, generate_synthetic, load_dataset
from mpdiag.evaluation import Detections, Evaluator, build_evaluator
from mpdiag.models import (
    ImageSizes,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)

HEIGHT, WIDTH = 120, 160
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def add(
    evaluator: Evaluator, data: SegmentationDataset, index: int, detections: Detections
) -> None:
    evaluator.update(data.image_ids[index], detections, data.ground_truth(index))


def polygon(rng: np.random.Generator) -> list[float]:
    """Return a small, medium or large quadrangle; some extend beyond the image."""
    side = float(rng.choice([9, 40, 110]))
    x, y = rng.uniform(-5, WIDTH - 20), rng.uniform(-5, HEIGHT - 20)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * side + rng.uniform(-3, 3, (4, 2))
    points: list[float] = (corners + np.array([x, y])).round(2).ravel().tolist()
    return points


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataset:
    """Polygons, crowds in RLE, areas that differ from the masks, and an object without a pixel."""
    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    for image_id in range(20, 2, -2):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{image_id}.png")
        for _ in range(int(rng.integers(0, 9))):
            points, crowd = polygon(rng), int(rng.random() < 0.2)
            segmentation: Any = [points]
            if crowd:
                packed = coco_mask.merge(coco_mask.frPyObjects([points], HEIGHT, WIDTH))
                segmentation = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": crowd,
                 "category_id": int(rng.choice([3, 7, 90])), "segmentation": segmentation,
                 "area": float(rng.uniform(0.6, 1.4)) * 900, "bbox": [0, 0, 1, 1]}
            )  # fmt: skip
    annotations[4] |= {"segmentation": [[4.1, 4.1, 4.2, 4.1, 4.2, 4.2]], "iscrowd": 0}
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH}
            for i in range(20, 2, -2)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in (90, 3, 7, 55)],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return coco_dataset(path, folder)


def detections(data: SegmentationDataset, index: int) -> Detections:
    """Return shifted GT masks and random boxes, with tied scores."""
    rng = np.random.default_rng(index + 100)
    truth = data.ground_truth(index)
    moved = [np.roll(mask.numpy(), rng.integers(-3, 4, 2), (0, 1)) for mask in truth.masks]
    others = np.zeros((4, HEIGHT, WIDTH), dtype=np.bool_)
    for mask in others:
        y, x = rng.integers(0, 100, 2)
        mask[y : y + 15, x : x + 20] = True
    masks = torch.from_numpy(np.concatenate([np.array(moved).reshape(-1, HEIGHT, WIDTH), others]))
    labels = torch.cat([truth.labels, torch.from_numpy(rng.integers(0, 4, 4))])
    scores = torch.from_numpy(rng.integers(1, 12, len(masks)) / 12).float()
    return Detections.encode(masks.bool(), labels, scores)


def pycocotools_stats(data: SegmentationDataset, found: dict[int, Detections]) -> list[float]:
    """Evaluate a results file with COCOeval against the annotation file."""
    results = [
        {
            "image_id": data.image_ids[index],
            "category_id": data.classes[int(label)].category_id,
            "score": float(score),
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts.decode()},
        }
        for index, one in found.items()
        for label, score, counts in zip(one.labels, one.scores, one.counts, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(data.annotations.path))
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.params.imgIds = sorted(data.image_ids[index] for index in found)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [math.nan if value == -1 else float(value) for value in evaluation.stats[:6]]


@pytest.mark.parametrize("indices", [range(9), range(5), [7, 2, 4]], ids=["all", "limit", "some"])
def test_ap_equals_pycocotools(instances: SegmentationDataset, indices: Any) -> None:
    found = {index: detections(instances, index) for index in indices}
    evaluator = build_evaluator(instances)
    for index, one in found.items():
        add(evaluator, instances, index, one)
    scores = evaluator.scores()
    expected = pycocotools_stats(instances, found)
    assert evaluator.primary_metric == "ap" and tuple(scores) == NAMES
    for name, wanted in zip(NAMES, expected, strict=True):
        value = scores[name]
        assert (value is None) == math.isnan(wanted), name
        assert value is None or value == pytest.approx(wanted, abs=1e-11), name
    assert scores["ap"] is not None and 0.1 < scores["ap"] < 0.9


@pytest.fixture(scope="module")
def roots(
    tmp_path_factory: pytest.TempPathFactory, ade20k_root: Path, cityscapes_root: Path
) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root / "synthetic", train=1, val=5, size=64)
    return {"synthetic": root, "ade20k": ade20k_root, "cityscapes": cityscapes_root}


CASES = [
    (name, task)
    for name in ("synthetic", "ade20k", "cityscapes")
    for task in ("instance", "panoptic", "semantic")
]


@pytest.mark.parametrize(("name", "task"), CASES)
def test_gt_as_detections_is_perfect(roots: dict[str, Path], name: str, task: str) -> None:
    data = load_dataset(name, root=roots[name], task=task)
    evaluator = build_evaluator(data)
    for index in range(len(data)):
        sample = data[index]
        add(evaluator, data, index, Detections.encode(sample.masks, sample.labels))
    scores = evaluator.scores()
    if (name, task) == ("ade20k", "panoptic"):
        # One listed segment is fully covered by things, so it is missed.
        assert scores["pq"] == pytest.approx(4 / 5)
        return
    assert scores[evaluator.primary_metric] == 1.0
    assert set(scores.values()) <= {1.0, None}


@pytest.mark.parametrize(("name", "task"), CASES)
def test_no_detections(roots: dict[str, Path], name: str, task: str) -> None:
    if task == "semantic":
        return  # every pixel has a class
    data = load_dataset(name, root=roots[name], task=task)
    evaluator = build_evaluator(data)
    assert set(evaluator.scores().values()) == {None}
    nothing = torch.zeros(0, *data.ground_truth(0).masks.shape[1:], dtype=torch.bool)
    for index in range(len(data)):
        add(evaluator, data, index, Detections.encode(nothing, torch.zeros(0, dtype=torch.int64)))
    assert evaluator.scores()[evaluator.primary_metric] == 0


def predictions(data: SegmentationDataset, index: int) -> tuple[Tensor, Tensor, ImageSizes]:
    """Return logits of 12 queries near the GT, for an image padded to 96 x 128."""
    height, width = data.ground_truth(index).masks.shape[1:]
    generator = torch.Generator().manual_seed(index)
    classes = torch.randn(12, len(data.classes) + 1, generator=generator)
    masks = torch.randn(12, 24, 32, generator=generator)
    sample = data[index]
    for query, (mask, label) in enumerate(zip(sample.masks[:12], sample.labels, strict=False)):
        small = mask[2::4, 2::4]
        masks[query, : small.shape[0], : small.shape[1]] += 6 * small - 3
        classes[query, label] += 9
    return classes, masks, ImageSizes((96, 128), (height, width), (height, width))


@pytest.mark.parametrize(("name", "task"), CASES)
def test_merged_shards_are_bit_equal(roots: dict[str, Path], name: str, task: str) -> None:
    data = load_dataset(name, root=roots[name], task=task)
    whole, shards = build_evaluator(data), [build_evaluator(data), build_evaluator(data)]
    for index in range(len(data)):
        found = whole.postprocess(*predictions(data, index))
        add(whole, data, index, found)
        add(shards[index % 2], data, index, found)
    sent = [pickle.dumps(shard) for shard in reversed(shards)]
    assert all(str(roots[name]).encode() not in one for one in sent)
    odd, even = map(pickle.loads, sent)
    assert (odd + even).scores() == whole.scores()
    assert (shards[0] + odd).scores() == (odd + shards[0]).scores() == whole.scores()
    assert 0 < (whole.scores()[whole.primary_metric] or 0) < 1


def test_shards_that_cannot_be_merged(roots: dict[str, Path]) -> None:
    data = load_dataset("cityscapes", root=roots["cityscapes"])
    evaluator = build_evaluator(data)
    add(evaluator, data, 0, evaluator.postprocess(*predictions(data, 0)))
    with pytest.raises(ValueError, match="twice"):
        evaluator + evaluator
    with pytest.raises(ValueError, match="different tasks"):
        other = load_dataset("cityscapes", root=roots["cityscapes"], task="panoptic")
        evaluator + build_evaluator(other)


def test_detections_equal_postprocessing(roots: dict[str, Path]) -> None:
    root = roots["cityscapes"]
    data = load_dataset("cityscapes", root=root)
    given = predictions(data, 0)
    found, expected = build_evaluator(data).postprocess(*given), instance_inference(*given)
    assert torch.equal(found.masks, expected.masks) and torch.equal(found.labels, expected.labels)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.queries, expected.queries)

    data = load_dataset("cityscapes", root=root, task="panoptic")
    given = predictions(data, 0)
    found = build_evaluator(data).postprocess(*given)
    segments = panoptic_inference(*given, things=[info.isthing for info in data.classes])
    assert len(found.counts) == len(segments.labels) > 1
    for number, mask in enumerate(found.masks, start=1):
        assert torch.equal(mask, segments.ids == number)
    assert torch.equal(found.labels, segments.labels) and set(found.queries.tolist()) == {-1}

    data = load_dataset("cityscapes", root=root, task="semantic")
    given = predictions(data, 0)
    found = build_evaluator(data).postprocess(*given)
    classes = semantic_inference(*given, resize_scores=True)
    assert found.labels.tolist() == sorted(set(classes.flatten().tolist()))
    assert (found.masks.sum(0) == 1).all()
    assert torch.equal(found.labels[found.masks.int().argmax(0)], classes)


def test_miou_equals_brute_force(roots: dict[str, Path]) -> None:
    """Compare with the label maps on disk; pixels with value 255 are ignored."""
    data = load_dataset("cityscapes", root=roots["cityscapes"], task="semantic")
    evaluator = build_evaluator(data)
    pairs = []
    for index in range(len(data)):
        found = evaluator.postprocess(*predictions(data, index))
        add(evaluator, data, index, found)
        path = str(data.annotations.path / data[index].file_name)
        truth = np.array(Image.open(path.replace("leftImg8bit", "gtFine_labelTrainIds")))
        classes = found.labels.numpy()[found.masks.numpy().argmax(0)]
        pairs += zip(truth[truth != 255].tolist(), classes[truth != 255].tolist(), strict=True)
    ious, in_gt = [], []
    for label in range(19):
        both = sum(a == label and b == label for a, b in pairs)
        either = sum(label in (a, b) for a, b in pairs)
        if either:
            ious.append(both / either)
        if any(a == label for a, _ in pairs):
            in_gt.append(both / either)
    scores = evaluator.scores()
    assert scores == {
        "miou": pytest.approx(np.mean(ious)), "miou_in_gt": pytest.approx(np.mean(in_gt)),
    }  # fmt: skip


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (61, 47), (900, 700)])
def test_masks_are_encoded_on_a_gpu_as_by_pycocotools(
    gpu: torch.device, size: tuple[int, int]
) -> None:
    """Noise, long and short runs, differences of both signs, an empty mask and a full one."""
    noise = torch.rand(2, *size, generator=torch.Generator().manual_seed(0)) > 0.5
    masks = torch.zeros(6, *size, dtype=torch.bool)
    masks[:2] = noise
    masks[2, size[0] // 3 : size[0] // 2 + 1, size[1] // 4 :] = True
    masks[3, :, : size[1] // 2 + 1] = True
    masks[4] = True
    labels = torch.arange(6)
    for chosen in (masks, masks[5:], masks[:0]):
        expected = Detections.encode(chosen, labels[: len(chosen)])
        found = Detections.encode(chosen.to(gpu), labels[: len(chosen)].to(gpu))
        assert found.counts == [rle.encode(mask) for mask in chosen.numpy()] == expected.counts
        assert found.size == size
        assert torch.equal(found.labels, expected.labels)
        assert torch.equal(found.scores, expected.scores)
    rows = torch.tensor([3, 1, 3])
    for device in ("cpu", gpu):
        shared = Detections.encode(masks.to(device), labels[:3].to(device), rows=rows.to(device))
        assert shared.counts == [rle.encode(masks[row].numpy()) for row in (3, 1, 3)]
