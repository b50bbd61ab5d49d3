"""Fixtures shared by the tests of several packages."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image

from mpdiag.store import RunWriter, rle
from mpdiag.store.schema import DETECTIONS, IMAGES, MASKS, QUERIES, TARGETS

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Rows = list[dict[str, Any]]
CLASSES = ("disc", "square", "star")
GRID = (24, 32)
STRIDE = 4


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """A factory of small run directories with random, seeded and consistent rows; see below."""
    return _make_run


def _detections(table: dict[str, Rows], layers: int) -> Rows:
    """The masks of the last layer, as detections of class 0."""
    return [
        {
            "image_id": row["image_id"],
            "query": row["index"],
            "label": 0,
            "score": 1 / (1 + row["index"]),
            **{key: row[key] for key in ("height", "width", "counts")},
        }
        for row in table["masks"]
        if row["kind"] == "query" and row["layer"] == layers
    ]


def _make_run(
    path: Path,
    *,
    images: int = 4,
    queries: int = 6,
    layers: int = 9,
    seed: int = 0,
    shards: int = 1,
    finish: bool = True,
    **header: Any,
) -> Path:
    """Write a run of `images` images, `queries` queries and `layers` layers, and give its path.

    Image ids are 1..images; image k has (k - 1) % 4 objects, so the first has none. The masks are
    discs that drift to the objects layer by layer, and some are empty; the rows are measured on
    them. `shards` splits the images into that many parts. `header` replaces entries of run.json.
    """
    writer = RunWriter.create(path, {**run_header(path.name), **header})
    tables = [_image_rows(k, queries, layers, seed) for k in range(1, images + 1)]
    for shard in range(shards):
        chosen = tables[shard::shards]
        if not chosen:
            continue
        writer.write(
            f"part-{shard:03d}",
            pa.Table.from_pylist([row for table in chosen for row in table["images"]], IMAGES),
            pa.Table.from_pylist([row for table in chosen for row in table["targets"]], TARGETS),
            pa.Table.from_pylist([row for table in chosen for row in table["queries"]], QUERIES),
            pa.Table.from_pylist(
                [row for t in chosen for row in _detections(t, layers)], DETECTIONS
            ),
        )
        masks = [row for table in chosen for row in table["masks"]]
        writer.write_masks(f"part-{shard:03d}", pa.Table.from_pylist(masks, MASKS))
    for image_id in range(1, images + 1):
        writer.save_thumbnail(image_id, _thumbnail(seed * 1000 + image_id))
    if finish:
        writer.finish({"seconds": 1.5})
    return path


def run_header(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "checkpoint": {"path": f"{name}/model_final.pth", "sha256": "0123456789abcdef" * 4},
        "architecture": {
            "backbone": {"name": "resnet18", "pretrained": False},
            "hidden_dim": 64,
            "encoder_layers": 2,
            "decoder_layers": 9,
        },
        "method": "baseline",
        "dataset": {
            "name": "synthetic",
            "annotation_file": "synthetic/annotations/instances_val.json",
            "image_root": "synthetic/val",
            "split": "val",
        },
        "task": "instance",
        "part": "matching",
        "classes": [
            {"category_id": k + 1, "name": name, "isthing": True} for k, name in enumerate(CLASSES)
        ],
        "settings": {"match_points": 12544, "limit": None, "seed": 0},
        "versions": {"mpdiag": "0.1.0", "torch": "2.9.0"},
        "device": "cpu",
        "created": "2025-01-02T03:04:05+00:00",
    }


def _image_rows(image_id: int, queries: int, layers: int, seed: int) -> dict[str, Rows]:
    generator = np.random.default_rng([seed, image_id])
    height, width = GRID
    num_gt = min((image_id - 1) % 4, queries)
    centres = generator.uniform(6, 18, (num_gt, 2))
    gt = [_disc(y, x, generator.uniform(4, 7)) for y, x in centres]
    gt_masks = np.array(gt, dtype=np.bool_).reshape(num_gt, height, width)
    labels = generator.integers(0, len(CLASSES), num_gt)
    masks = _query_masks(generator, queries, layers)
    matched_query = _drifting_matches(generator, num_gt, queries, layers)
    for layer in range(layers + 1):
        for o in range(num_gt):
            if generator.random() < 0.3 + 0.7 * layer / layers:
                masks[layer, matched_query[layer, o]] = gt_masks[o]
    matched_gt = np.full((layers + 1, queries), -1)
    for layer in range(layers + 1):
        matched_gt[layer, matched_query[layer]] = np.arange(num_gt)
    same = matched_query == matched_query[-1]
    rows: dict[str, Rows] = {
        "images": [
            {
                "image_id": image_id,
                "file_name": f"{image_id:06d}.jpg",
                "height": height * STRIDE,
                "width": width * STRIDE,
                "input_height": height * STRIDE,
                "input_width": width * STRIDE,
                "num_gt": num_gt,
                "util": same.mean(axis=1).tolist() if num_gt else [],
            }
        ],
        "targets": [
            {
                "image_id": image_id,
                "gt": o,
                "category_id": int(labels[o]) + 1,
                "label": int(labels[o]),
                "area": int(gt_masks[o].sum()),
                "bbox": _box(gt_masks[o]),
                "matched_query": matched_query[:, o].tolist(),
            }
            for o in range(num_gt)
        ],
        "queries": [],
        "masks": [_mask_row(image_id, "gt", -1, o, gt_masks[o]) for o in range(num_gt)],
    }
    for layer in range(layers + 1):
        for n in range(queries):
            previous = masks[layer - 1, n] if layer else None
            row = _query_row(masks[layer, n], previous, gt_masks, int(matched_gt[layer, n]))
            row |= {"image_id": image_id, "layer": layer, "query": n}
            row |= {"label": int(generator.integers(0, len(CLASSES))), "score": generator.random()}
            rows["queries"].append(row)
            rows["masks"].append(_mask_row(image_id, "query", layer, n, masks[layer, n]))
    return rows


def _query_masks(generator: np.random.Generator, queries: int, layers: int) -> Bools:
    masks = np.zeros((layers + 1, queries, *GRID), dtype=np.bool_)
    for n in range(queries):
        y, x, radius = generator.uniform(4, 20), generator.uniform(4, 28), generator.uniform(2, 7)
        for layer in range(layers + 1):
            step = generator.normal(0, 5 / (layer + 1), 2)
            if generator.random() > 0.15:
                masks[layer, n] = _disc(y + step[0], x + step[1], radius)
    return masks


def _drifting_matches(
    generator: np.random.Generator, num_gt: int, queries: int, layers: int
) -> Ints:
    """The query of each object in each layer, (layers + 1, num_gt); fewer swaps in late layers."""
    order = generator.permutation(queries)
    matches = np.zeros((layers + 1, num_gt), dtype=np.int64)
    for layer in range(layers, -1, -1):
        matches[layer] = order[:num_gt]
        if num_gt and generator.random() < 1 - layer / (layers + 1):
            swap = generator.choice(queries, 2, replace=False)
            order[swap] = order[swap[::-1]]
    return matches


def _query_row(
    mask: Bools, previous: Bools | None, gt_masks: Bools, matched_gt: int
) -> dict[str, Any]:
    ious = [_iou(mask, gt) or 0.0 for gt in gt_masks]
    best = int(np.argmax(ious)) if ious and max(ious) > 0 else -1
    return {
        "iou_prev": None if previous is None else _iou(previous, mask),
        "intersection_prev": None if previous is None else int((previous & mask).sum()),
        "area": int(mask.sum()),
        "area_prev": None if previous is None else int(previous.sum()),
        "matched_gt": matched_gt,
        "best_gt": best,
        "best_gt_iou": ious[best] if best >= 0 else 0.0,
        "matched_gt_iou": ious[matched_gt] if matched_gt >= 0 else None,
    }


def _mask_row(image_id: int, kind: str, layer: int, index: int, mask: Bools) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "kind": kind,
        "layer": layer,
        "index": index,
        "height": mask.shape[0],
        "width": mask.shape[1],
        "counts": rle.encode(mask),
        "badness": 0.5,
    }


def _iou(a: Bools, b: Bools) -> float | None:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else None


def _disc(y: float, x: float, radius: float) -> Bools:
    rows, columns = np.mgrid[: GRID[0], : GRID[1]]
    inside: Bools = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    return inside


def _box(mask: Bools) -> list[float]:
    rows, columns = np.nonzero(mask)
    y, x = rows.min(), columns.min()
    size = (columns.max() - x + 1, rows.max() - y + 1)
    return [float(v) * STRIDE for v in (x, y, *size)]


def _thumbnail(seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((GRID[1] * STRIDE, GRID[0] * STRIDE))
    stream = io.BytesIO()
    picture.save(stream, format="JPEG")
    return stream.getvalue()
