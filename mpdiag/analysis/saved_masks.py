"""Save masks and attention of the queries that change most, or of all queries."""

import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mpdiag import rle
from mpdiag.analysis.measure import MeasuredImage
from mpdiag.analysis.options import SavePolicy
from mpdiag.metrics import adjacent_iou
from mpdiag.store import RunWriter
from mpdiag.store.attention import pack
from mpdiag.store.schema import TABLES
from mpdiag.store.writer import SelectedTable

THUMBNAIL_SIDE = 640  # longest side in pixels
WORST = "worst"
QUERY_TABLES: tuple[SelectedTable, ...] = ("masks", "attention")

Row = dict[str, Any]
ScoredQuery = tuple[float, int, int]  # change score, image, query


class MaskSaver:
    """Collect masks and attention of queries, and write them with each part of a run.

    The worst queries have the highest change score: the sum over layers of 1 - IoU(M^{i-1}, M^i),
    where pairs of empty masks count 0. Only queries that match a GT in the last layer compete.
    """

    def __init__(self, writer: RunWriter, policy: SavePolicy, rank: int = 0) -> None:
        """Continue from the file of this rank; `merge_shards` merges the files of all ranks."""
        self._writer = writer
        self._policy = policy
        self._name = f"{WORST}-{rank}" if rank else WORST
        files = {table: writer.path / table / f"{self._name}.parquet" for table in QUERY_TABLES}
        rows = {table: _read([file]) for table, file in files.items()}
        self._with_thumbnail = {row["image_id"] for row in rows["masks"]}
        self._rows = {table: _complete(saved, writer.done) for table, saved in rows.items()}
        self._worst = _scored_queries(self._rows["masks"])

    def add(self, image: MeasuredImage) -> None:
        """Select queries of an image and keep their masks and attention."""
        if self._policy.count == 0:
            return
        scores, image_id = change_scores(image), image.sample.image_id
        if self._policy.count is None:
            queries = list(range(len(scores)))
        else:
            matched = (image.rows.matched_gt[-1] >= 0).nonzero()[:, 0].tolist()
            candidates = [(scores[query], image_id, query) for query in matched]
            self._worst = sorted([*self._worst, *candidates], key=_order)[: self._policy.count]
            queries = [query for _, owner, query in self._worst if owner == image_id]
        if queries:
            self._rows["masks"] += mask_rows(image, queries, scores)
            self._rows["attention"] += _attention_rows(image, queries)
            self._with_thumbnail.add(image_id)
            self._writer.save_thumbnail(image_id, thumbnail(image))

    def write(self, part: str) -> None:
        """Write the worst queries so far, or all queries of this part."""
        if self._policy.count == 0:
            return
        if self._policy.count is None:
            for table, rows in self._rows.items():
                _write(self._writer, table, part, rows)
            self._rows = {table: [] for table in QUERY_TABLES}
            return
        for table, rows in self._rows.items():
            self._rows[table] = _rows_of(rows, self._worst)
            _write(self._writer, table, self._name, self._rows[table])
        images = {image for _, image, _ in self._worst}
        for image in self._with_thumbnail - images:
            self._writer.delete_thumbnail(image)
        self._with_thumbnail = images


def merge_shards(writer: RunWriter, policy: SavePolicy) -> None:
    """Merge the worst queries of all ranks into one file, and delete the others.

    Call this on the main process only, before the other processes start and after they finish. A
    run may be resumed with another number of processes.
    """
    if not policy.count:
        return
    done = RunWriter(writer.path).done
    worst: list[ScoredQuery] = []
    for table in QUERY_TABLES:  # masks first, because they determine the worst queries
        files = sorted((writer.path / table).glob(f"{WORST}*.parquet"))
        rows = list({_key(row): row for row in _complete(_read(files), done)}.values())
        if table == "masks":
            worst = _scored_queries(rows)[: policy.count]
        if files:
            _write(writer, table, WORST, _rows_of(rows, worst))
        for file in files:
            if file.stem != WORST:
                file.unlink()
    images = {image for _, image, _ in worst}
    for thumbnail in (writer.path / "thumbnails").glob("*.jpg"):
        image = thumbnail.stem  # macOS adds files such as "._12.jpg"
        if image.isdecimal() and int(image) not in images:
            writer.delete_thumbnail(int(image))


def change_scores(image: MeasuredImage) -> list[float]:
    """Return the change score of each query."""
    iou = adjacent_iou(image.rows.intersection, image.rows.area)
    scores: list[float] = (1 - iou).nansum(0).tolist()
    return scores


def _read(files: Sequence[Path]) -> list[Row]:
    return [row for file in files if file.is_file() for row in pq.read_table(file).to_pylist()]


def _complete(rows: list[Row], done: Collection[int]) -> list[Row]:
    """Return the rows of completed images. A resumed run repeats the others."""
    return [row for row in rows if row["image_id"] in done]


def _write(writer: RunWriter, table: SelectedTable, name: str, rows: list[Row]) -> None:
    """Write rows; without attention there is no file of attention."""
    if rows or table == "masks":
        writer.write_selected(table, name, pa.Table.from_pylist(rows, schema=TABLES[table]))


def _key(row: Row) -> tuple[Any, ...]:
    """Return what identifies a row of masks or attention in its table."""
    return tuple(row.get(name) for name in ("image_id", "kind", "layer", "index", "query"))


def _scored_queries(rows: list[Row]) -> list[ScoredQuery]:
    """Return the queries among rows of masks, worst first."""
    queries = {
        (row["change_score"], row["image_id"], row["index"])
        for row in rows
        if row["kind"] == "query"
    }
    return sorted(queries, key=_order)


def _rows_of(rows: list[Row], queries: list[ScoredQuery]) -> list[Row]:
    """Select the rows of these queries, and of the GT of their images."""
    selected = {(image, query) for _, image, query in queries}
    images = {image for image, _ in selected}

    def is_selected(row: Row) -> bool:
        if row.get("kind") == "gt":
            return row["image_id"] in images
        return (row["image_id"], row.get("query", row.get("index"))) in selected

    return [row for row in rows if is_selected(row)]


def _order(scored: ScoredQuery) -> ScoredQuery:
    return -scored[0], scored[1], scored[2]


def mask_rows(image: MeasuredImage, queries: list[int], scores: list[float]) -> Iterator[Row]:
    masks = image.rows.masks(queries).cpu().numpy()
    height, width = masks.shape[-2:]
    size = {"image_id": image.sample.image_id, "height": height, "width": width}
    for position, query in enumerate(queries):
        for layer in range(len(masks)):
            key = {"kind": "query", "layer": layer, "index": query}
            counts = rle.encode(masks[layer, position])
            yield {**size, **key, "counts": counts, "change_score": scores[query]}
    for gt, mask in enumerate(image.rows.gt_masks.cpu().numpy()):
        key = {"kind": "gt", "layer": -1, "index": gt}
        yield {**size, **key, "counts": rle.encode(mask), "change_score": None}


def _attention_rows(image: MeasuredImage, queries: list[int]) -> Iterator[Row]:
    for number, layer in enumerate(image.attention, start=1):
        weights = layer.weights[queries].float().cpu().numpy()
        visible = None if layer.visible is None else layer.visible[queries].cpu().numpy()
        for position, query in enumerate(queries):
            packed, step = pack(weights[position])
            mask = None if visible is None else visible[position].reshape(layer.grid)
            yield {
                "image_id": image.sample.image_id,
                "layer": number,
                "query": query,
                "height": layer.grid[0],
                "width": layer.grid[1],
                "image_height": layer.covered[0],
                "image_width": layer.covered[1],
                "counts": None if mask is None else rle.encode(mask),
                "weights": packed,
                "step": step,
            }


def thumbnail(image: MeasuredImage) -> bytes:
    """Return the model input as JPEG, with the aspect ratio of the file."""
    picture = Image.fromarray(image.sample.image.permute(1, 2, 0).numpy())
    height, width = image.sample.original_size
    scale = min(THUMBNAIL_SIDE, max(picture.size)) / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
