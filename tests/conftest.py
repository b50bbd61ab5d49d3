"""Fixtures shared by the tests of several packages."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
from pycocotools import mask as coco_mask
from rich.console import Console, RenderableType

from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.data.class_lists import ade20k_classes, cityscapes_classes
from mpdiag.ops import tf32, use_backend
from mpdiag.store import RunWriter, rle
from mpdiag.store.aggregates import add_views
from mpdiag.store.attention import pack
from mpdiag.store.database import LAYERS_VIEW, MACROS
from mpdiag.store.schema import TABLES

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Map = npt.NDArray[np.integer[Any]]
Rows = list[dict[str, Any]]
CLASSES = ("disc", "square", "star")
GRID = (24, 32)
STRIDE = 4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `cuda` without a GPU."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked and not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU, and PyTorch finds none"))


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
def make_run() -> Callable[..., Path]:
    """Return `_make_run`, which writes small run directories with random, consistent rows."""
    return _make_run


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


SIZE = (64, 96)  # image size of the two data sets below
BED, PERSON = (1, 8), (4, 13)  # ids among the 100 instance classes and among all 150 classes


@pytest.fixture(scope="session")
def ade20k_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ADEChallengeData2016/ as Mask2Former prepares it; 4 + 4 images.

    It also contains the source maps annotations/ and annotations_instance/. The last image of a
    split has no instance. In the first image, things cover all sky.
    """
    root = tmp_path_factory.mktemp("ade20k")
    for split, folder in (("train", "training"), ("val", "validation")):
        _write_ade20k(root / "ADEChallengeData2016", split, folder)
    return root


@pytest.fixture(scope="session")
def cityscapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with cityscapes/ as prepared by its scripts; 4 + 4 images.

    The last image of a split has no instance, only a group of cars.
    """
    root = tmp_path_factory.mktemp("cityscapes")
    for split, cities in (("train", ("aachen", "bochum")), ("val", ("frankfurt", "lindau"))):
        _write_cityscapes(root / "cityscapes", split, cities)
    return root


def _write_ade20k(home: Path, split: str, folder: str) -> None:
    things = [info for info in ade20k_classes() if info.isthing]
    listed: Rows = []
    instances: Rows = []
    panoptic: Rows = []
    for number in range(1, 5):
        name = f"ADE_{split}_{number:08d}"
        semantic, owners = _ade20k_scene(number)
        _save(home / "images" / folder / f"{name}.jpg", _photo(number, semantic))
        _save(home / "annotations" / folder / f"{name}.png", semantic)
        _save(home / "annotations_detectron2" / folder / f"{name}.png", semantic - np.uint8(1))
        _save(home / "annotations_instance" / folder / f"{name}.png", owners)
        listed.append({"id": name, "file_name": f"{name}.jpg", "height": 64, "width": 96})
        ids, segments = np.zeros(SIZE, dtype=np.int64), []
        for label in np.unique(semantic[semantic > 0]).tolist():
            if not ade20k_classes()[label - 1].isthing:
                ids[semantic == label] = label * 1000
                segments.append(_segment(label * 1000, label - 1, semantic == label))
        for instance in range(1, int(owners[..., 1].max()) + 1):
            mask = owners[..., 1] == instance
            category = things[int(owners[..., 0][mask][0]) - 1].category_id
            packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            rle = {"size": list(SIZE), "counts": packed["counts"].decode("ascii")}
            entry = _segment(len(instances) + 1, category, mask)
            instances.append(entry | {"image_id": name, "segmentation": rle})
            ids[mask] = instance * 100_000
            segments.append(_segment(instance * 100_000, category, mask))
        _save(home / f"ade20k_panoptic_{split}" / f"{name}.png", _colors(ids))
        panoptic.append({"image_id": name, "file_name": f"{name}.png", "segments_info": segments})
    for kind, annotations, classes in (
        ("instance", instances, things),
        ("panoptic", panoptic, ade20k_classes()),
    ):
        categories = [
            {"id": info.category_id, "name": info.name, "isthing": int(info.isthing)}
            for info in classes
        ]
        content = {"images": listed, "annotations": annotations, "categories": categories}
        (home / f"ade20k_{kind}_{split}.json").write_text(json.dumps(content))


def _ade20k_scene(number: int) -> tuple[Map, Map]:
    """Return (H, W) ids of the 150 classes, 0 for others, and (H, W, 3) class and instance ids."""
    semantic = np.full(SIZE, 1, dtype=np.uint8)  # class 1
    semantic[40:] = 4  # class 4
    semantic[:, :3] = 0
    owners = np.zeros((*SIZE, 3), dtype=np.uint8)
    if number == 4:
        return semantic, owners
    semantic[10:20, 10:40] = 3 if number == 1 else BED[1]  # sky
    owners[10:20, 10:40] = (BED[0], 1, 0)
    semantic[30:60, 50 + number : 70] = PERSON[1]
    owners[30:60, 50 + number : 70] = (PERSON[0], 2, 0)
    semantic[50:55, 80:90] = BED[1]
    owners[50:55, 80:90] = (BED[0], 3, 0)
    return semantic, owners


def _write_cityscapes(home: Path, split: str, cities: tuple[str, str]) -> None:
    train_ids = np.full(256, 255, dtype=np.uint8)
    train_ids[[info.category_id for info in cityscapes_classes()]] = np.arange(19)
    known = {info.category_id: info for info in cityscapes_classes()}
    listed: Rows = []
    annotations: Rows = []
    for number in range(4):
        city = cities[number // 2]
        name = f"{city}_000000_{number:06d}"
        instances = _cityscapes_scene(number)
        labels = np.where(instances < 1000, instances, instances // 1000).astype(np.uint8)
        _save(home / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png",
              _photo(number, labels))  # fmt: skip
        stem = home / "gtFine" / split / city / f"{name}_gtFine"
        _save(Path(f"{stem}_instanceIds.png"), instances.astype(np.uint16))
        _save(Path(f"{stem}_labelIds.png"), labels)
        _save(Path(f"{stem}_labelTrainIds.png"), train_ids[labels])
        ids, segments = np.zeros(SIZE, dtype=np.int64), []
        for value in np.unique(instances).tolist():
            info = known.get(value if value < 1000 else value // 1000)
            if info is not None:
                ids[instances == value] = value
                segment = _segment(value, info.category_id, instances == value)
                segments.append(segment | {"iscrowd": int(value < 1000 and info.isthing)})
        folder = f"cityscapes_panoptic_{split}"
        _save(home / "gtFine" / folder / f"{name}_gtFine_panoptic.png", _colors(ids))
        listed.append({"id": name, "height": 64, "width": 96,
                       "file_name": f"{name}_gtFine_leftImg8bit.png"})  # fmt: skip
        annotations.append({"image_id": name, "file_name": f"{name}_gtFine_panoptic.png",
                            "segments_info": segments})  # fmt: skip
    categories = [
        {"id": info.category_id, "name": info.name, "isthing": int(info.isthing)}
        for info in cityscapes_classes()
    ]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    path = home / "gtFine" / f"cityscapes_panoptic_{split}.json"
    path.write_text(json.dumps(content))


def _cityscapes_scene(number: int) -> Map:
    """Return (H, W) instance ids: road, sky, unlabelled, ignored classes, and instances."""
    instances = np.full(SIZE, 7, dtype=np.int64)
    instances[:20] = 23
    instances[:, :4] = 0
    instances[60:] = 9
    instances[22:28, 80:95] = 26  # a group of cars
    if number < 3:
        instances[22:30, 60:75] = 29_000
        instances[30:50, 10:40] = 26_000
        instances[32:45, 45 : 50 + number] = 26_001
        instances[25:50, 55:58] = 24_000
    return instances


def _segment(number: int, category_id: int, mask: Bools) -> dict[str, Any]:
    rows, columns = np.nonzero(mask)
    y, x = int(rows.min()), int(columns.min())
    box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
    return {"id": number, "category_id": category_id, "iscrowd": 0, "area": int(mask.sum()),
            "bbox": box}  # fmt: skip


def _colors(ids: Map) -> npt.NDArray[np.uint8]:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def _photo(seed: int, labels: Map) -> npt.NDArray[np.uint8]:
    """Return an image with a different colour for each class."""
    colors = np.random.default_rng(5).integers(30, 226, (256, 3))
    noise = np.random.default_rng(seed).integers(-20, 21, (*SIZE, 3))
    return (colors[labels] + noise).astype(np.uint8)


def _save(path: Path, pixels: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
