"""Which masks and attention a run keeps, and how: of the queries that change most, or all."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from mpdiag.analysis.tables import MeasuredImage
from mpdiag.errors import ConfigError
from mpdiag.store import RunWriter, rle
from mpdiag.store.attention import pack
from mpdiag.store.schema import TABLES
from mpdiag.store.writer import Kept

THUMBNAIL = 640  # longest side of a kept picture, in pixels
WORST = "worst"
TABLES_OF_QUERIES: tuple[Kept, ...] = ("masks", "attention")

Row = dict[str, Any]
Entry = tuple[float, int, int]  # badness, image, query


@dataclass(frozen=True, slots=True)
class KeepPolicy:
    """`count` worst queries of the run; None for all, 0 for none."""

    count: int | None

    @classmethod
    def parse(cls, text: str) -> "KeepPolicy":
        """From `worst:K`, `all` or `none`; ConfigError for anything else."""
        kind, _, number = text.partition(":")
        if text in ("all", "none"):
            return cls(None if text == "all" else 0)
        if kind == WORST and number.isdigit():
            return cls(int(number))
        raise ConfigError(f"--save-masks {text}: choose worst:K (as worst:50), all or none")


class MaskKeeper:
    """Collects masks, and attention if there is some, and writes them with each part of a run.

    How bad a query is: the sum over layers of 1 - IoU(M^{i-1}, M^i), pairs of empty masks
    counting nothing; of an image's queries only those that match a GT in the last layer compete.
    """

    def __init__(self, writer: RunWriter, policy: KeepPolicy, rank: int = 0) -> None:
        """Of several processes, each has a `rank`, and `unite` brings together what they kept."""
        self._writer = writer
        self._policy = policy
        self._name = f"{WORST}-{rank}" if rank else WORST
        kept = {table: writer.path / table / f"{self._name}.parquet" for table in TABLES_OF_QUERIES}
        rows = {table: _read([file]) for table, file in kept.items()}
        self._pictured = {row["image_id"] for row in rows["masks"]}
        self._rows = {table: _done(found, writer.done) for table, found in rows.items()}
        self._worst = _queries(self._rows["masks"])

    def add(self, image: MeasuredImage) -> None:
        """Look at an image's masks and keep what the policy asks for."""
        if self._policy.count == 0:
            return
        bad = badness(image)
        matched = (image.rows.matched_gt[-1] >= 0).nonzero()[:, 0].tolist()
        if self._policy.count is None:
            queries = list(range(len(bad)))
        else:
            found = [(bad[query], image.sample.image_id, query) for query in matched]
            self._worst = sorted([*self._worst, *found], key=_order)[: self._policy.count]
            queries = [q for _, i, q in self._worst if i == image.sample.image_id]
        if queries:
            self._rows["masks"] += _encode(image, queries, bad)
            self._rows["attention"] += _encode_attention(image, queries)
            self._pictured.add(image.sample.image_id)
            self._writer.save_thumbnail(image.sample.image_id, _thumbnail(image))

    def write(self, part: str) -> None:
        """Write what is kept so far; with `all`, the masks of this part."""
        if self._policy.count == 0:
            return
        if self._policy.count is None:
            for table, rows in self._rows.items():
                _write(self._writer, table, part, rows)
            self._rows = {table: [] for table in TABLES_OF_QUERIES}
            return
        for table, rows in self._rows.items():
            self._rows[table] = _of_queries(rows, self._worst)
            _write(self._writer, table, self._name, self._rows[table])
        images = {image for _, image, _ in self._worst}
        for image in self._pictured - images:
            self._writer.drop_thumbnail(image)
        self._pictured = images


def unite(writer: RunWriter, policy: KeepPolicy) -> None:
    """Make one file of the worst queries that several processes kept, and drop what is not worst.

    For the first process alone, before the others begin and after they ended: a run may be resumed
    by another number of processes.
    """
    if not policy.count:
        return
    done = RunWriter(writer.path).done
    worst: list[Entry] = []
    for table in TABLES_OF_QUERIES:  # masks first: they say which queries are the worst
        files = sorted((writer.path / table).glob(f"{WORST}*.parquet"))
        rows = list({_key(row): row for row in _done(_read(files), done)}.values())
        if table == "masks":
            worst = _queries(rows)[: policy.count]
        if files:
            _write(writer, table, WORST, _of_queries(rows, worst))
        for file in files:
            if file.stem != WORST:
                file.unlink()
    images = {image for _, image, _ in worst}
    for thumbnail in (writer.path / "thumbnails").glob("*.jpg"):
        if int(thumbnail.stem) not in images:
            writer.drop_thumbnail(int(thumbnail.stem))


def _read(files: Sequence[Path]) -> list[Row]:
    return [row for file in files if file.is_file() for row in pq.read_table(file).to_pylist()]


def _done(rows: list[Row], done: set[int]) -> list[Row]:
    """Those of images whose rows are complete: a run that was stopped does the others again."""
    return [row for row in rows if row["image_id"] in done]


def _write(writer: RunWriter, table: Kept, name: str, rows: list[Row]) -> None:
    """A run without attention has no file of it."""
    if rows or table == "masks":
        writer.write_kept(table, name, pa.Table.from_pylist(rows, schema=TABLES[table]))


def _key(row: Row) -> tuple[Any, ...]:
    """What tells a row of masks or of attention from all others of its table."""
    return tuple(row.get(name) for name in ("image_id", "kind", "layer", "index", "query"))


def _queries(rows: list[Row]) -> list[Entry]:
    """Badness, image and query of all queries among the rows of masks, worst first."""
    found = {
        (row["badness"], row["image_id"], row["index"]) for row in rows if row["kind"] == "query"
    }
    return sorted(found, key=_order)


def _of_queries(rows: list[Row], worst: list[Entry]) -> list[Row]:
    """Those of the rows that are of these queries, or GT of their images."""
    queries = {(image, query) for _, image, query in worst}
    images = {image for image, _ in queries}

    def wanted(row: Row) -> bool:
        if row.get("kind") == "gt":
            return row["image_id"] in images
        return (row["image_id"], row.get("query", row.get("index"))) in queries

    return [row for row in rows if wanted(row)]


def badness(image: MeasuredImage) -> list[float]:
    """For each query, the sum over layers of 1 - IoU with the layer before."""
    rows = image.rows
    union = rows.area[:-1] + rows.area[1:] - rows.intersection
    change = 1 - rows.intersection.double() / union.clamp(min=1)
    values: list[float] = torch.where(union > 0, change, 0.0).sum(0).tolist()
    return values


def _order(entry: Entry) -> Entry:
    return -entry[0], entry[1], entry[2]


def _encode(image: MeasuredImage, queries: list[int], bad: list[float]) -> Iterator[dict[str, Any]]:
    masks = image.rows.masks(queries).cpu().numpy()
    height, width = masks.shape[-2:]
    common = {"image_id": image.sample.image_id, "height": height, "width": width}
    for position, query in enumerate(queries):
        for layer in range(len(masks)):
            counts = rle.encode(masks[layer, position])
            yield {
                **common,
                "kind": "query",
                "layer": layer,
                "index": query,
                "counts": counts,
                "badness": bad[query],
            }
    for gt, mask in enumerate(image.rows.gt_masks.cpu().numpy()):
        counts = rle.encode(mask)
        yield {
            **common,
            "kind": "gt",
            "layer": -1,
            "index": gt,
            "counts": counts,
            "badness": None,
        }


def _encode_attention(image: MeasuredImage, queries: list[int]) -> Iterator[Row]:
    for number, layer in enumerate(image.attention, start=1):
        weights = layer.weights[queries].float().cpu().numpy()
        visible = None if layer.visible is None else layer.visible[queries].cpu().numpy()
        for position, query in enumerate(queries):
            packed, step = pack(weights[position])
            yield {
                "image_id": image.sample.image_id,
                "layer": number,
                "query": query,
                "height": layer.grid[0],
                "width": layer.grid[1],
                "image_height": layer.covered[0],
                "image_width": layer.covered[1],
                "counts": None
                if visible is None
                else rle.encode(visible[position].reshape(layer.grid)),
                "weights": packed,
                "step": step,
            }


def _thumbnail(image: MeasuredImage) -> bytes:
    """What the model was shown, in the proportions of the file, which some models stretch."""
    picture = Image.fromarray(image.sample.image.permute(1, 2, 0).numpy())
    height, width = image.sample.original_size
    scale = min(THUMBNAIL, max(picture.size)) / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
