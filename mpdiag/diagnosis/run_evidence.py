"""Read the evidence of a diagnosis from the kept detections of a run directory."""

import math
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pycocotools import mask as coco_mask

from mpdiag import rle
from mpdiag.analysis.options import SourceOptions
from mpdiag.data import GroundTruth, SegmentationDataset, load_dataset
from mpdiag.diagnosis.evidence import REPEATED_IOU, Evidence, Float32, ImageEvidence
from mpdiag.errors import RunError
from mpdiag.export.detections import categories, layers_with_detections
from mpdiag.metrics import valid_cells
from mpdiag.store import Run

NEVER = 1e-12  # probability of a class that no kept detection has
IMAGES_PER_QUERY = 64
MAX_VALUES = 1 << 28  # of an image: overlaps of pairs of queries, and classes, in all layers
MAX_BYTES = 1 << 33  # for those of all images

_DETECTIONS = f"""
SELECT d.image_id, d.layer, d.query, d.label, d.score, q.label AS top, q.score AS highest,
    {rle.bounded_counts_sql("i.height", "i.width")} AS counts
FROM detections d JOIN queries q USING (image_id, layer, query) JOIN images i USING (image_id)
WHERE image_id IN (SELECT unnest(?)) ORDER BY ALL
"""
_QUERIES = """
SELECT image_id, layer, query, area, center_x, center_y FROM queries
WHERE layer IN (SELECT unnest(?)) AND image_id IN (SELECT unnest(?)) ORDER BY ALL
"""


def matching_dataset(
    run: Run, dataset: str | SegmentationDataset | None, options: SourceOptions
) -> SegmentationDataset:
    """Open the data set of a run: the given one, or the one that run.json names.

    Raises:
        DataError: the data set cannot be opened.
        RunError: run.json does not name an annotation file, or the data set has other classes or
            lacks an image of the run.
    """
    if isinstance(dataset, str):
        dataset = load_dataset(dataset, root=options.root, split=options.split, task=options.task)
    data = dataset or _own_dataset(run)
    _check_classes(run, data)
    known = set(data.image_ids)
    for image_id in run.query("SELECT image_id FROM images ORDER BY image_id")["image_id"].tolist():
        if image_id not in known:
            raise RunError(
                f"{run.path}: image {image_id} is not in {data.name}; give the data set of the run"
            )
    return data


def _own_dataset(run: Run) -> SegmentationDataset:
    header = run.header.get("dataset")
    header = header if isinstance(header, dict) else {}
    file, root = header.get("annotation_file"), header.get("image_root")
    if not isinstance(file, str) or not file.endswith(".json") or not isinstance(root, str):
        raise RunError(f"{run.path / 'run.json'}: names no annotation file; give --dataset")
    return load_dataset(file, root=root, task=run.header.get("task"))


def read_evidence(run: Run, data: SegmentationDataset, limit: int | None = None) -> Evidence:
    """Read the evidence of a run over instances.

    The kept detections hold the mask and the class probability of the best 100 pairs of query and
    class of an image. The other classes of a query count as improbable, which is why wrong labels
    are not looked for, and the other queries as such that predict nothing.

    Args:
        run: the run.
        data: its `matching_dataset`.
        limit: number of images.

    Raises:
        RunError: the run has no detections or damaged ones, or is of another task.
    """
    if run.header.get("task") != "instance" or run.header.get("part") != "matching":
        raise RunError(
            f"{run.path}: is of task {run.header.get('task')}, part {run.header.get('part')}; a "
            "diagnosis of a run needs instances of the matching part, so diagnose the checkpoint"
        )
    layers = layers_with_detections(run)
    rows = run.query("SELECT * FROM images ORDER BY image_id LIMIT ?", [limit or 2**31])
    index = {image_id: place for place, image_id in enumerate(data.image_ids)}
    settings = run.header.get("settings")
    rule = settings.get("inference", "mask2former") if isinstance(settings, dict) else "mask2former"
    num_queries = int(run.summary["num_queries"])
    classes = len(data.classes)
    _check_size(run, len(rows), len(layers), num_queries, classes)
    reader = _Reader(run, classes, num_queries, layers, str(rule))
    images = [
        reader.image(row, data.ground_truth(index[row.image_id]), detections, queries)
        for row, detections, queries in reader.rows(rows)
    ]
    return Evidence(images, classes, rule, layers[0], every_class=False)  # type: ignore[arg-type]


def _check_size(run: Run, images: int, layers: int, queries: int, classes: int) -> None:
    """Raise RunError if the evidence does not fit in memory."""
    if layers * queries * (queries + classes + 1) > MAX_VALUES:
        raise RunError(
            f"{run.path}: has {queries:,} queries and {classes:,} classes in {layers} layers, too "
            "many to compare all pairs; analyse without --evaluate-layers"
        )
    overlaps = (layers + 4) * queries**2  # bool in all layers, float32 in one
    num_bytes = images * (overlaps + 4 * layers * queries * (classes + 1))
    if num_bytes > MAX_BYTES:
        fitting = MAX_BYTES * images // num_bytes
        raise RunError(
            f"{run.path}: overlaps and classes of {queries:,} queries on {images:,} images take "
            f"{num_bytes / 2**30:.0f} GiB of memory; give --limit {fitting}"
        )


def _check_classes(run: Run, data: SegmentationDataset) -> None:
    """Raise RunError for the first class that run and data set number or name differently."""
    own = categories(run)
    given = [(info.category_id, info.name) for info in data.classes]
    for place, (one, other) in enumerate(zip_longest(own, given)):
        if one != other:
            first, second = ("missing" if x is None else f"{x[0]} {x[1]!r}" for x in (one, other))
            raise RunError(
                f"{run.path}: class {place} is {first} in the run and {second} in {data.name}; "
                "give the data set of the run, or analyse again"
            )


class _Reader:
    """Convert the rows of images to evidence."""

    def __init__(
        self, run: Run, num_classes: int, num_queries: int, layers: list[int], rule: str
    ) -> None:
        self.run = run
        self.shape = (len(layers), num_queries)
        self.num_classes = num_classes
        self.layers = layers
        self.rule = rule

    def rows(self, images: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame, pd.DataFrame]]:
        """Yield the row, the detections and the queries of each image."""
        for start in range(0, len(images), IMAGES_PER_QUERY):
            block = images.iloc[start : start + IMAGES_PER_QUERY]
            ids = block["image_id"].tolist()
            detections = self.run.query(_DETECTIONS, [ids])
            queries = self.run.query(_QUERIES, [self.layers, ids])
            for row in block.itertuples():
                own = detections["image_id"] == row.image_id, queries["image_id"] == row.image_id
                yield row, detections[own[0]], queries[own[1]]

    def image(
        self, row: Any, truth: GroundTruth, detections: pd.DataFrame, queries: pd.DataFrame
    ) -> ImageEvidence:
        """Return the evidence of one image.

        Raises:
            RunError: its rows are damaged.
        """
        try:
            return self._image(row, truth, detections, queries)
        except (IndexError, TypeError, ValueError) as error:
            raise RunError(
                f"{self.run.path}: image {row.image_id} is invalid ({error}); analyse again"
            ) from error

    def _image(
        self, row: Any, truth: GroundTruth, detections: pd.DataFrame, queries: pd.DataFrame
    ) -> ImageEvidence:
        if len(queries) != math.prod(self.shape):
            raise ValueError(f"{len(queries)} rows of {self.shape[1]} queries")
        size = truth.masks.shape[-2], truth.masks.shape[-1]
        gt = [_encoded(rle.encode(mask), size) for mask in truth.masks.numpy()]
        crowd = truth.crowd.numpy()
        self._check(detections)
        probability, quality = self._probabilities(detections)
        masks = self._masks(detections, size)
        iou = np.zeros((*self.shape, len(gt)), np.float32)
        for layer, found in enumerate(masks):
            iou[layer, list(found)] = _iou(list(found.values()), gt, crowd)
        centers = [np.argwhere(mask).mean(0) / size for mask in truth.masks.numpy()]
        overlap = np.stack([self._overlap(one, one) for one in masks])
        area, center = self._geometry(queries)
        grid = valid_cells(row.input_height, row.input_width)
        return ImageEvidence(
            image_id=int(row.image_id),
            class_logits=self._logits(probability),
            quality=quality,
            iou=iou,
            area=area / np.float32(max(grid[0] * grid[1], 1)),
            center=center,
            overlap=np.where(np.eye(self.shape[1], dtype=np.bool_), 0, overlap).max(-1),
            repeated=overlap >= REPEATED_IOU,
            moved=self._overlap(masks[-2:][0], masks[-1]),
            grid=grid,
            features=None,
            gt_labels=truth.labels.numpy(),
            gt_crowd=crowd,
            gt_center=np.array(centers, np.float32).reshape(-1, 2),
            gt_area=truth.areas.numpy(),
            pixels=size[0] * size[1],
            gt_overlap=_iou(gt, gt, np.zeros(len(gt), np.bool_)),
            ignored=np.zeros(self.shape[1], np.bool_),
        )

    def _check(self, detections: pd.DataFrame) -> None:
        """Raise ValueError for a detection of no query or class, or with an impossible score."""
        query, label, score = (detections[name] for name in ("query", "label", "score"))
        if not query.between(0, self.shape[1] - 1).all():
            raise ValueError("a detection of no query")
        if not label.between(0, self.num_classes - 1).all():
            raise ValueError("a detection of no class")
        impossible = (detections["highest"] == 0) & (score > 0)
        if not (score.between(0, 1) & (detections["highest"] >= 0) & ~impossible).all():
            raise ValueError("a score that is no probability")

    def _probabilities(self, detections: pd.DataFrame) -> tuple[Float32, Float32]:
        """Return class probabilities (S, N, K) and mask qualities (S, N)."""
        probability = np.full((*self.shape, self.num_classes), NEVER, np.float32)
        quality = np.ones(self.shape, np.float32)
        place = np.searchsorted(self.layers, detections["layer"])
        query, label = detections["query"].to_numpy(), detections["label"].to_numpy()
        if self.rule == "mask2former":
            top = (detections["label"] == detections["top"]).to_numpy()
            own = (detections["score"] / detections["highest"].replace(0, 1)).to_numpy()
            quality[place[top], query[top]] = own[top]
        scores = detections["score"].to_numpy()
        probability[place, query, label] = scores / np.maximum(quality[place, query], 1e-6)
        limited: Float32 = np.clip(probability, NEVER, 1)
        return limited, quality

    def _logits(self, probability: Float32) -> Float32:
        """Return class logits with these probabilities, no-object last."""
        if self.rule == "sigmoid":
            odds = np.log(probability / np.maximum(1 - probability, NEVER))
            return np.concatenate([odds, np.zeros_like(odds[..., :1])], axis=-1)
        rest = np.maximum(1 - probability.sum(-1, keepdims=True), NEVER)
        logits: Float32 = np.log(np.concatenate([probability, rest], axis=-1))
        return logits

    def _masks(
        self, detections: pd.DataFrame, size: tuple[int, int]
    ) -> list[dict[int, dict[str, Any]]]:
        """Return the RLE of each query's mask, by layer."""
        masks: list[dict[int, dict[str, Any]]] = [{} for _ in self.layers]
        place = np.searchsorted(self.layers, detections["layer"])
        rows = zip(place, detections["query"], detections["counts"], strict=True)
        for layer, query, counts in rows:
            if query not in masks[layer]:
                rle.decode(bytes(counts), *size)  # raises for damaged run lengths
                masks[layer][int(query)] = _encoded(bytes(counts), size)
        return masks

    def _overlap(self, rows: dict[int, Any], columns: dict[int, Any]) -> Float32:
        overlap = np.zeros((self.shape[1], self.shape[1]), np.float32)
        none = np.zeros(len(columns), np.bool_)
        found = _iou(list(rows.values()), list(columns.values()), none)
        overlap[np.ix_(list(rows), list(columns))] = found
        return overlap

    def _geometry(self, queries: pd.DataFrame) -> tuple[Float32, Float32]:
        """Return areas (S, N) in cells, and centers (S, N, 2)."""
        area = queries["area"].to_numpy(np.float32).reshape(self.shape)
        center = queries[["center_y", "center_x"]].to_numpy(np.float32).reshape(*self.shape, 2)
        return area, center


def _encoded(counts: bytes, size: tuple[int, int]) -> dict[str, Any]:
    return {"size": list(size), "counts": counts}


def _iou(
    rows: list[dict[str, Any]], columns: list[dict[str, Any]], crowd: npt.NDArray[np.bool_]
) -> Float32:
    """Return the IoUs of masks as RLE; for a crowd the share of the row's mask inside it."""
    if not rows or not columns:
        return np.zeros((len(rows), len(columns)), np.float32)
    return np.asarray(coco_mask.iou(rows, columns, crowd.tolist()), np.float32)
