"""Fixtures shared by the tests of several packages."""

import gc
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pretend_cuda import pretend_cuda
from rich.console import Console, RenderableType

from mpdiag import rle
from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.ops import tf32, use_backend
from mpdiag.store import RunWriter
from mpdiag.store.aggregates import add_views
from mpdiag.store.attention import pack
from mpdiag.store.database import LAYERS_VIEW, MACROS
from mpdiag.store.files import replace_json
from mpdiag.store.schema import TABLES

from .prepared_data_sets import ade20k_root, cityscapes_root

__all__ = ["ade20k_root", "cityscapes_root"]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Rows = list[dict[str, Any]]
CLASSES = ("disc", "square", "star")
GRID = (24, 32)
STRIDE = 4
ROW_OPTIONS = ("images", "queries", "layers", "seed", "shards", "finish", "part")
"""Options of `make_run` on which the rows depend; the others are entries of run.json."""


# transformers would take datasets/, the data of a checkout, for the package `datasets`.
if (spec := find_spec("datasets")) is not None and spec.origin is None:
    sys.modules["datasets"] = None  # type: ignore[assignment]


gc.disable()  # until all tests are imported: what they import is no garbage


def pytest_collection_finish() -> None:
    """Leave what is imported out of later collections of garbage, which tests ask for."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _without_fsync() -> Iterator[None]:
    """Let no write wait for the disk: tests kill processes, but do not cut the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs without `-m cuda`: other tests compare exactly, or pretend to have one."""
    if "cuda" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `cuda` without a GPU, and begin with files that have slow tests.

    Several processes then end at about the same time.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked and not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU and -m cuda"))


@pytest.fixture(params=["pretended", pytest.param("cuda", marks=pytest.mark.cuda)])
def gpu(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Return the device cuda:0: the GPU if there is one, and a pretended one everywhere."""
    with ExitStack() as stack:
        if request.param == "pretended":
            stack.enter_context(use_backend("plain"))  # the only attention that needs no GPU
            stack.enter_context(pretend_cuda([]))
        else:
            stack.enter_context(tf32("none"))
        yield torch.device("cuda", 0)


@pytest.fixture
def render() -> Callable[[RenderableType], str]:
    """Return a function that renders a table as text."""

    def render(table: RenderableType, width: int = 160) -> str:
        console = Console(width=width, file=StringIO())
        console.print(table)
        return console.file.getvalue()

    return render


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `_make_run`, which writes small run directories with random, consistent rows.

    Of runs that have equal rows only the first is computed, by one of the workers; the others are
    copies of it with another run.json.
    """
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "computed-runs"

    def make(path: Path, **options: Any) -> Path:
        rows = {name: options.pop(name) for name in ROW_OPTIONS if name in options}
        key = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        if not (original := shared / key).exists():
            computed = _make_run(tmp_path_factory.mktemp("run") / "run", **rows)
            shared.mkdir(exist_ok=True)
            with suppress(OSError):  # another worker has computed it meanwhile
                computed.rename(original)
        shutil.copytree(original, path)
        header = json.loads((path / "run.json").read_text())
        named = run_header(path.name)
        header |= {name: named[name] for name in ("name", "checkpoint")}
        replace_json(path / "run.json", header | options)
        return path

    return make


@pytest.fixture
def database() -> Iterator[Callable[..., duckdb.DuckDBPyConnection]]:
    """Return a function that opens an in-memory database with the views of a run directory.

    It takes table -> rows or Arrow table. Missing tables are empty, missing columns null.
    """
    connections = []

    def connect(content: dict[str, Rows | pa.Table]) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect()
        connections.append(connection)
        for name in TABLES:
            rows = content.get(name, [])
            connection.register(name, arrow_table(name, rows) if isinstance(rows, list) else rows)
        for statement in (*MACROS, LAYERS_VIEW):
            connection.execute(statement)
        add_views(connection, Path("no run"))
        return connection

    yield connect
    for connection in connections:
        connection.close()


@pytest.fixture(scope="session")
def small_config() -> ModelConfig:
    """Return the configuration of a model small enough to run many times."""
    return ModelConfig(
        num_classes=3,
        backbone=BackboneConfig(
            name="resnet18", channels=(8, 8, 16, 16), stem_channels=8, norm="frozen"
        ),
        hidden_dim=32,
        mask_dim=16,
        num_heads=4,
        encoder_layers=1,
        encoder_feedforward_dim=32,
        decoder_layers=4,
        feedforward_dim=32,
        num_queries=6,
        label_embedding=True,
    )


def _detections(table: dict[str, Rows], layers: int) -> Rows:
    """Return the masks of the last layer, at the size of the image, as detections of class 0."""
    found = []
    for row in table["masks"]:
        if row["kind"] == "query" and row["layer"] == layers:
            cells = rle.decode(row["counts"], row["height"], row["width"])
            mask = cells.repeat(STRIDE, 0).repeat(STRIDE, 1)
            found.append(
                {
                    "image_id": row["image_id"],
                    "layer": layers,
                    "query": row["index"],
                    "label": 0,
                    "score": 1 / (1 + row["index"]),
                    "height": mask.shape[0],
                    "width": mask.shape[1],
                    "counts": rle.encode(mask),
                }
            )
    return found


def arrow_table(table: str, rows: Rows) -> pa.Table:
    """Return rows as a table of the schema; a column that a row does not give is null."""
    unknown = {key for row in rows for key in row} - set(TABLES[table].names)
    assert not unknown, f"{table} has no column {unknown}"
    return pa.Table.from_pylist(rows, TABLES[table])


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
    """Write a run of `images` images, `queries` queries and `layers` layers, and return its path.

    Image ids are 1..images. Image k has (k - 1) % 4 GT, so the first has none. The masks are discs
    that move to the GT layer by layer; some are empty. The rows are measured on them. `shards` is
    the number of parts. `header` replaces entries of run.json.
    """
    writer = RunWriter.create(path, {**run_header(path.name), **header})
    tables = [_image_rows(k, queries, layers, seed) for k in range(1, images + 1)]
    if header.get("part") == "piloted":
        for table in tables:
            _feed_objects(table)
    for shard in range(shards):
        chosen = tables[shard::shards]
        if not chosen:
            continue
        rows = {name: [row for table in chosen for row in table[name]] for name in chosen[0]}
        rows["detections"] = _detections(rows, layers)
        parts = {name: arrow_table(name, rows[name]) for name in TABLES}
        name = f"part-{shard:03d}"
        writer.write(name, parts["images"], parts["targets"], parts["queries"], parts["detections"])
        writer.write_selected("masks", name, parts["masks"])
        writer.write_selected("attention", name, parts["attention"])
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
                "pixels": float(gt_masks[o].sum() * STRIDE**2),
                "covered": float(generator.random()),
                **_best_query(masks, gt_masks[o]),
            }
            for o in range(num_gt)
        ],
        "queries": [],
        "attention": [
            _attention_row(image_id, layer, n, masks[layer - 1, n])
            for n in range(queries)
            for layer in range(1, layers + 1)
        ],
        "masks": [_mask_row(image_id, "gt", -1, o, gt_masks[o]) for o in range(num_gt)],
    }
    for layer in range(layers + 1):
        for n in range(queries):
            previous = masks[layer - 1, n] if layer else None
            row = _query_row(masks[layer, n], previous, gt_masks, int(matched_gt[layer, n]))
            row |= {"image_id": image_id, "layer": layer, "query": n}
            row |= {"label": int(generator.integers(0, len(CLASSES))), "score": generator.random()}
            if matched_gt[layer, n] >= 0:
                costs = ("class_cost", "mask_cost", "dice_cost", "margin")
                row |= dict(zip(costs, generator.random(4).tolist(), strict=True))
            rows["queries"].append(row)
            rows["masks"].append(_mask_row(image_id, "query", layer, n, masks[layer, n]))
    return rows


def _feed_objects(table: dict[str, Rows]) -> None:
    """Add the IoU with the GT from which an MP query was made; query n is made from GT n mod G."""
    shape = (GRID[0], GRID[1])
    gt = [rle.decode(row["counts"], *shape) for row in table["masks"] if row["kind"] == "gt"]
    masks = [row for row in table["masks"] if row["kind"] == "query"]
    for row, mask in zip(table["queries"], masks, strict=True):
        if gt:
            fed = gt[row["query"] % len(gt)]
            row["fed_gt_iou"] = _iou(rle.decode(mask["counts"], *shape), fed)


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
    """Return the query of each GT in each layer, (layers + 1, num_gt); late layers swap less."""
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
        "second_coverage": sorted(float(mask[gt].mean()) for gt in gt_masks)[-2]
        if len(gt_masks) > 1
        else 0.0,
        **_center(mask),
    }


def _center(mask: Bools) -> dict[str, Any]:
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return {"center_x": None, "center_y": None}
    height, width = mask.shape
    return {
        "center_x": float((columns + 0.5).mean() / width),
        "center_y": float((rows + 0.5).mean() / height),
    }


def _best_query(masks: Bools, gt: Bools) -> dict[str, Any]:
    ious = np.array([[_iou(mask, gt) or 0.0 for mask in layer] for layer in masks])
    best = np.where(ious.max(1) > 0, ious.argmax(1), -1)
    return {"best_query": best.tolist(), "best_query_iou": ious.max(1).tolist()}


def _mask_row(image_id: int, kind: str, layer: int, index: int, mask: Bools) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "kind": kind,
        "layer": layer,
        "index": index,
        "height": mask.shape[0],
        "width": mask.shape[1],
        "counts": rle.encode(mask),
        "change_score": 0.5,
    }


def _attention_row(image_id: int, layer: int, query: int, before: Bools) -> dict[str, Any]:
    """Return uniform attention within the mask of the layer before, at stride 32, 16 or 8."""
    side = (8, 4, 2)[(layer - 1) % 3]
    height, width = GRID[0] // side, GRID[1] // side
    mask = before.reshape(height, side, width, side).any((1, 3))
    mask |= ~mask.any()
    packed, step = pack((mask / mask.sum()).astype(np.float32))
    return {
        **{"image_id": image_id, "layer": layer, "query": query},
        "height": height,
        "width": width,
        "image_height": float(height),
        "image_width": float(width),
        "counts": rle.encode(mask),
        "weights": packed,
        "step": step,
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
