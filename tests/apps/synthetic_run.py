"""Write a synthetic run directory of any size without a model.

    python tests/apps/synthetic_run.py RUN --images 5000    # 5 million query rows in a minute

The rows are random but consistent: areas with IoUs, matches of queries with those of GT, and rows
with the masks that are saved. Runs of the same size have the same images and GT for any seed.
"""

import argparse
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, ImageDraw

from mpdiag import rle
from mpdiag.store import RunWriter
from mpdiag.store.schema import IMAGES, MASKS, QUERIES, TARGETS

Array = npt.NDArray[Any]
CLASSES = ("person", "bicycle", "car", "dog", "cat", "chair", "bottle", "book", "kite", "clock")
STRIDE = 4
IMAGES_IN_A_PART = 32
NUM_PHOTOS = 16
"""Number of different image files; more images reuse them."""


@dataclass(frozen=True, slots=True)
class RunSize:
    """Size of a run; masks have `height` by `width` cells."""

    images: int = 5000
    queries: int = 100
    layers: int = 9
    saved: int = 200
    """Number of images with saved masks."""
    height: int = 120
    width: int = 160

    @property
    def most_gt(self) -> int:
        return min(20, self.queries // 2)


@dataclass(frozen=True, slots=True)
class Scenes:
    """Random scenes: P images, L + 1 layers, N queries and up to G GT."""

    ids: Array
    num_gt: Array
    """(P,)"""
    labels: Array
    """(P, G)"""
    gt_disc: Array
    """(P, G, 3): y, x and radius of each GT, in cells."""
    matched_query: Array
    """(P, L + 1, G), -1 for none."""
    matched_gt: Array
    """(P, L + 1, N), -1 for none."""
    disc: Array
    """(P, L + 1, N, 3): y, x and radius of each mask; radius 0 is an empty mask."""


def write_run(path: Path, size: RunSize, seed: int = 0, log: Callable[[str], None] = str) -> Path:
    """Write a run to the new directory `path`, and return `path`."""
    writer = RunWriter.create(path, _header(path.name, seed))
    masks: list[pa.Table] = []
    for first in range(0, size.images, IMAGES_IN_A_PART):
        generator = np.random.default_rng([seed, first])
        ids = np.arange(first, min(first + IMAGES_IN_A_PART, size.images)) + 1
        scenes = _draw_scenes(ids, size, np.random.default_rng(first), generator)
        rows = _query_columns(scenes, size, generator)
        step = max(1, size.images // max(size.saved, 1))
        for place in np.flatnonzero(
            (ids % step == 1 % step) & (scenes.num_gt > 0) & (size.saved > 0)
        ):
            masks.append(_saved_masks(scenes, rows, int(place), size))
        best = _best_queries(rows, size)
        writer.write(
            f"part-{first // IMAGES_IN_A_PART:05d}",
            _images(scenes, size),
            _targets(scenes, best, size, generator),
            _queries(scenes, rows, size),
        )
        log(f"{int(ids[-1])} of {size.images} images")
    if masks:
        writer.write_selected("masks", "worst", pa.concat_tables(masks))
    photos = [_photo(number, size) for number in range(min(NUM_PHOTOS, size.images))]
    for image_id in range(
        1, size.images + 1
    ):  # without the writer's sync of each file, which takes minutes
        picture = photos[image_id % len(photos)]
        (path / "thumbnails" / f"{image_id}.jpg").write_bytes(picture)
    log("summary")
    writer.finish({"seconds": 1.0})
    return path


def _draw_scenes(
    ids: Array, size: RunSize, gt_generator: np.random.Generator, generator: np.random.Generator
) -> Scenes:
    """Draw the GT with `gt_generator`, which does not depend on the seed, and the predictions."""
    count, depth, most = len(ids), size.layers + 1, size.most_gt
    corner = np.array([size.height, size.width])
    num_gt = np.where(ids % 10 == 0, 0, np.clip(gt_generator.poisson(7, count), 1, most))
    labels = np.minimum(gt_generator.geometric(0.25, (count, most)), len(CLASSES)) - 1
    gt_disc = np.empty((count, most, 3))
    gt_disc[..., :2] = gt_generator.uniform(0.15, 0.85, (count, most, 2)) * corner
    gt_disc[..., 2] = gt_generator.uniform(3, size.height / 5, (count, most))

    shuffled = generator.permuted(np.tile(np.arange(size.queries), (count, 1)), axis=1)
    final_since = generator.integers(-depth, depth, (count, 1, most))
    layer = np.arange(depth)[None, :, None]
    first, last = shuffled[:, None, most : 2 * most], shuffled[:, None, :most]
    matched_query = np.where(layer >= final_since, last, first)
    matched_query = np.where(np.arange(most) < num_gt[:, None, None], matched_query, -1)
    matched_gt = np.full((count, depth, size.queries), -1)
    p, i, o = np.nonzero(matched_query >= 0)
    matched_gt[p, i, matched_query[p, i, o]] = o

    # A query has its own position, as learned queries do, and moves to its GT when it matches.
    position = np.random.default_rng(0).uniform(0.1, 0.9, (size.queries, 2)) * corner
    disc = np.empty((count, depth, size.queries, 3))
    disc[..., :2] = position + generator.normal(0, size.height / 8, (count, 1, size.queries, 2))
    disc[..., 2] = generator.uniform(2, size.height / 6, (count, 1, size.queries))
    p, i, n = np.nonzero(matched_gt >= 0)
    disc[p, i, n] = gt_disc[p, matched_gt[p, i, n]]
    jitter = 1 / (1 + np.arange(depth))[None, :, None, None]
    disc += generator.normal(0, size.height / 40, disc.shape) * jitter
    empty = generator.random(disc.shape[:3]) < 0.15 * jitter[..., 0]
    disc[..., 2] = np.where(empty, 0, np.maximum(disc[..., 2], 1))
    return Scenes(ids, num_gt, labels, gt_disc, matched_query, matched_gt, disc)


def _query_columns(
    scenes: Scenes, size: RunSize, generator: np.random.Generator
) -> dict[str, Array]:
    """Return columns of shape (P, L + 1, N); NaN is null."""
    shape = scenes.matched_gt.shape
    cells = size.height * size.width
    area = np.minimum(np.round(np.pi * scenes.disc[..., 2] ** 2), cells // 2)
    before = np.concatenate([np.full_like(area[:, :1], np.nan), area[:, :-1]], axis=1)
    shared = 1 - generator.random(shape) * 0.8 / (1 + np.arange(shape[1]))[:, None]
    matched = scenes.matched_gt >= 0
    fit = (0.2 + 0.7 * np.arange(shape[1])[:, None] / max(size.layers, 1)) * generator.random(
        shape
    ) ** 0.3
    other = generator.integers(0, 10**6, shape) % np.maximum(scenes.num_gt, 1)[:, None, None]
    some = (generator.random(shape) < 0.4) & (scenes.num_gt > 0)[:, None, None]
    best_gt = np.where(
        area == 0, -1, np.where(matched, scenes.matched_gt, np.where(some, other, -1))
    )
    best_iou = np.where(best_gt < 0, 0, np.where(matched, fit, fit * 0.3))
    hidden = np.where(matched, 0.0, np.nan)
    label = np.take_along_axis(scenes.labels[:, None], np.maximum(scenes.matched_gt, 0), axis=2)
    guess = generator.integers(0, len(CLASSES), shape)
    right = matched & (generator.random(shape) < 0.8)
    return {
        "intersection_prev": np.floor(np.minimum(area, before) * shared),
        "area": area,
        "area_prev": before,
        "best_gt": best_gt,
        "best_gt_iou": best_iou,
        "matched_gt_iou": np.where(matched, best_iou, np.nan),
        "label": np.where(right, label, guess),
        "score": np.where(matched, 0.5 + 0.5 * fit, 0.3 * generator.random(shape)),
        "second_coverage": np.where(best_gt >= 0, generator.random(shape) ** 3, 0.0),
        "class_cost": hidden + 2 * generator.random(shape),
        "mask_cost": hidden + 5 * generator.random(shape),
        "dice_cost": hidden + 5 * generator.random(shape),
        "margin": hidden + generator.normal(2, 1, shape),
        "center_x": np.where(area > 0, np.clip(scenes.disc[..., 1] / size.width, 0, 1), np.nan),
        "center_y": np.where(area > 0, np.clip(scenes.disc[..., 0] / size.height, 0, 1), np.nan),
    }


def _saved_masks(scenes: Scenes, rows: dict[str, Array], place: int, size: RunSize) -> pa.Table:
    """Return the masks of the first GT's query, and set the rows of the query to match them."""
    query, count = int(scenes.matched_query[place, -1, 0]), int(scenes.num_gt[place])
    masks = _discs(scenes.disc[place, :, query], size)
    gt = _discs(scenes.gt_disc[place, :count], size)
    area, gt_area = masks.sum((1, 2)), gt.sum((1, 2))
    overlap = np.einsum("lyx,gyx->lg", masks.astype(float), gt.astype(float))
    iou = overlap / np.maximum(area[:, None] + gt_area - overlap, 1)
    matched = scenes.matched_gt[place, :, query]
    share = np.sort(overlap / np.maximum(gt_area, 1), axis=1)
    measured = {
        "area": area,
        "area_prev": np.concatenate([[np.nan], area[:-1]]),
        "intersection_prev": np.concatenate([[np.nan], (masks[1:] & masks[:-1]).sum((1, 2))]),
        "best_gt": np.where(iou.max(1) > 0, iou.argmax(1), -1),
        "best_gt_iou": iou.max(1),
        "matched_gt_iou": np.where(matched >= 0, iou[np.arange(len(iou)), matched], np.nan),
        "second_coverage": share[:, -2] if count > 1 else np.zeros(len(share)),
    }
    for name, values in measured.items():
        rows[name][place, :, query] = values
    union = area[1:] + area[:-1] - measured["intersection_prev"][1:]
    change = np.where(union > 0, 1 - measured["intersection_prev"][1:] / np.maximum(union, 1), 0)
    depth = len(masks)
    return _table(
        MASKS,
        {
            "image_id": np.full(depth + count, scenes.ids[place]),
            "kind": ["query"] * depth + ["gt"] * count,
            "layer": [*range(depth), *[-1] * count],
            "index": [query] * depth + [*range(count)],
            "height": np.full(depth + count, size.height),
            "width": np.full(depth + count, size.width),
            "counts": [rle.encode(mask) for mask in (*masks, *gt)],
            "change_score": [float(change.sum())] * depth + [None] * count,
        },
    )


def _table(schema: pa.Schema, columns: dict[str, Any]) -> pa.Table:
    """Return a table with the columns of the schema; columns that are not given are null."""
    unknown = columns.keys() - set(schema.names)
    assert not unknown, f"not in the schema: {unknown}"
    count = len(next(iter(columns.values())))
    arrays = [
        pa.array(columns[field.name], from_pandas=True).cast(field.type)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def _discs(discs: Array, size: RunSize) -> Array:
    """Convert (K, 3) y, x, radius to masks (K, height, width)."""
    y, x, radius = (column[:, None, None] for column in discs.T)
    rows, columns = np.mgrid[: size.height, : size.width]
    inside: Array = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    return inside


def _best_queries(rows: dict[str, Array], size: RunSize) -> tuple[Array, Array]:
    """Return the query with the highest IoU for each GT, or -1, and the IoU; (P, L + 1, G) each."""
    own = rows["best_gt"][..., None] == np.arange(size.most_gt)
    iou = np.where(own, rows["best_gt_iou"][..., None], 0)
    best = iou.max(2)
    return np.where(best > 0, iou.argmax(2), -1), best


def _queries(scenes: Scenes, rows: dict[str, Array], size: RunSize) -> pa.Table:
    p, i, n = (grid.ravel() for grid in np.indices(scenes.matched_gt.shape))
    union = rows["area"] + rows["area_prev"] - rows["intersection_prev"]
    iou = np.where(union > 0, rows["intersection_prev"] / np.maximum(union, 1), np.nan)
    columns = {
        "image_id": scenes.ids[p],
        "layer": i,
        "query": n,
        "iou_prev": iou,
        "matched_gt": scenes.matched_gt,
        **rows,
    }
    return _table(QUERIES, {name: values.ravel() for name, values in columns.items()})


def _targets(
    scenes: Scenes, best: tuple[Array, Array], size: RunSize, generator: np.random.Generator
) -> pa.Table:
    p, gt = np.nonzero(np.arange(size.most_gt) < scenes.num_gt[:, None])
    y, x, radius = scenes.gt_disc[p, gt].T
    area = _gt_areas(scenes.gt_disc[p, gt], size)
    box = np.stack([x - radius, y - radius, 2 * radius, 2 * radius], axis=1) * STRIDE
    columns = {
        "image_id": scenes.ids[p],
        "gt": gt,
        "category_id": scenes.labels[p, gt] + 1,
        "label": scenes.labels[p, gt],
        "area": area,
        "bbox": list(np.maximum(box, 0)),
        "matched_query": list(scenes.matched_query[p, :, gt]),
        "pixels": area * float(STRIDE**2),
        "covered": generator.random(len(p)) ** 2,
        "best_query": list(best[0][p, :, gt]),
        "best_query_iou": list(best[1][p, :, gt]),
    }
    return _table(TARGETS, columns)


def _gt_areas(discs: Array, size: RunSize) -> Array:
    """Return the number of cells of each disc: (K, 3) -> (K,)."""
    y, x, radius = (column[:, None] for column in discs.T)
    half = np.sqrt(np.maximum(radius**2 - (np.arange(size.height) - y) ** 2, 0))
    # As in `_discs`, cells strictly between x - half and x + half.
    last = np.minimum(np.ceil(x + half) - 1, size.width - 1)
    first = np.maximum(np.floor(x - half) + 1, 0)
    return np.where(half > 0, np.maximum(last - first + 1, 0), 0).sum(1)


def _images(scenes: Scenes, size: RunSize) -> pa.Table:
    count = len(scenes.ids)
    height, width = size.height * STRIDE, size.width * STRIDE
    same = (scenes.matched_query == scenes.matched_query[:, -1:]) & (scenes.matched_query >= 0)
    util = same.sum(2) / np.maximum(scenes.num_gt, 1)[:, None]
    columns = {
        "image_id": scenes.ids,
        "file_name": [f"{image_id:012d}.jpg" for image_id in scenes.ids],
        "height": np.full(count, height),
        "width": np.full(count, width),
        "input_height": np.full(count, height),
        "input_width": np.full(count, width),
        "num_gt": scenes.num_gt,
        "util": [row if gt else [] for row, gt in zip(util, scenes.num_gt, strict=True)],
    }
    return _table(IMAGES, columns)


def _photo(seed: int, size: RunSize) -> bytes:
    """Return a JPEG: a color gradient with some ellipses."""
    generator = np.random.default_rng(seed)
    height, width = size.height * STRIDE, size.width * STRIDE
    ground = generator.uniform(60, 200, (2, 3))
    ramp = np.linspace(0, 1, height)[:, None, None]
    pixels = np.broadcast_to(ground[0] * (1 - ramp) + ground[1] * ramp, (height, width, 3))
    picture = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(8):
        x, y, r = generator.uniform(0, width), generator.uniform(0, height), height / 8
        draw.ellipse(
            (x - r, y - r, x + r, y + r), fill=tuple(generator.integers(0, 256, 3).tolist())
        )
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=85)
    return stream.getvalue()


def _header(name: str, seed: int) -> dict[str, Any]:
    return {
        "name": name,
        "checkpoint": {"path": f"{name}/model_final.pth", "sha256": f"{seed:064x}"},
        "architecture": {"backbone": {"name": "resnet50"}, "decoder_layers": 9},
        "method": "baseline",
        "dataset": {
            "name": "synthetic",
            "annotation_file": "synthetic/instances_val.json",
            "image_root": "synthetic/val",
            "split": "val",
        },
        "task": "instance",
        "part": "matching",
        "classes": [
            {"category_id": label + 1, "name": name, "isthing": True}
            for label, name in enumerate(CLASSES)
        ],
        "settings": {"match_points": 12544, "limit": None, "save_masks": "worst:200"},
        "versions": {"mpdiag": "0.1.0"},
        "device": "cpu",
        "created": "2025-01-02T03:04:05+00:00",
    }


def main() -> None:
    """Write a run as given by the command line."""
    parser = argparse.ArgumentParser(description="Write a synthetic run directory.")
    parser.add_argument("run", type=Path)
    for name, value in (("images", 5000), ("queries", 100), ("layers", 9), ("saved", 200)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    size = RunSize(arguments.images, arguments.queries, arguments.layers, arguments.saved)
    write_run(
        arguments.run,
        size,
        arguments.seed,
        lambda text: print(f"\r{text}", end="", file=sys.stderr, flush=True),
    )
    print(file=sys.stderr)


if __name__ == "__main__":
    main()
