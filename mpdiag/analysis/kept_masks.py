"""Which masks a run keeps, and how: those of the queries whose masks change most, or all."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from mpdiag.analysis.tables import MeasuredImage
from mpdiag.errors import ConfigError
from mpdiag.store import RunWriter, rle
from mpdiag.store.schema import MASKS

THUMBNAIL = 640  # longest side of a kept picture, in pixels
WORST = "worst"

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
    """Collects masks while a run grows and writes them with each part.

    How bad a query is: the sum over layers of 1 - IoU(M^{i-1}, M^i), pairs of empty masks
    counting nothing; of an image's queries only those that match a GT in the last layer compete.
    """

    def __init__(self, writer: RunWriter, policy: KeepPolicy, rank: int = 0) -> None:
        """Of several processes, each has a `rank`, and `unite` brings together what they kept."""
        self._writer = writer
        self._policy = policy
        self._name = f"{WORST}-{rank}" if rank else WORST
        kept = writer.path / "masks" / f"{self._name}.parquet"
        rows = pq.read_table(kept).to_pylist() if kept.is_file() else []
        self._rows: list[Row] = [row for row in rows if row["image_id"] in writer.done]
        self._worst = _queries(self._rows)
        self._pictured = {row["image_id"] for row in rows}

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
            self._rows += _encode(image, queries, bad)
            self._pictured.add(image.sample.image_id)
            self._writer.save_thumbnail(image.sample.image_id, _thumbnail(image))

    def write(self, part: str) -> None:
        """Write what is kept so far; with `all`, the masks of this part."""
        if self._policy.count == 0:
            return
        if self._policy.count is None:
            self._writer.write_masks(part, pa.Table.from_pylist(self._rows, schema=MASKS))
            self._rows = []
            return
        self._rows = _of_queries(self._rows, self._worst)
        self._writer.write_masks(self._name, pa.Table.from_pylist(self._rows, schema=MASKS))
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
    files = sorted((writer.path / "masks").glob(f"{WORST}*.parquet"))
    done = RunWriter(writer.path).done
    rows = {
        (row["image_id"], row["kind"], row["layer"], row["index"]): row
        for file in files
        for row in pq.read_table(file).to_pylist()
        if row["image_id"] in done
    }
    worst = _queries(list(rows.values()))[: policy.count]
    kept = _of_queries(list(rows.values()), worst)
    if files:
        writer.write_masks(WORST, pa.Table.from_pylist(kept, schema=MASKS))
    for file in files:
        if file.stem != WORST:
            file.unlink()
    images = {image for _, image, _ in worst}
    for thumbnail in (writer.path / "thumbnails").glob("*.jpg"):
        if int(thumbnail.stem) not in images:
            writer.drop_thumbnail(int(thumbnail.stem))


def _queries(rows: list[Row]) -> list[Entry]:
    """Badness, image and query of all queries among the rows of masks, worst first."""
    found = {
        (row["badness"], row["image_id"], row["index"]) for row in rows if row["kind"] == "query"
    }
    return sorted(found, key=_order)


def _of_queries(rows: list[Row], worst: list[Entry]) -> list[Row]:
    """Those of the rows that are masks of these queries, or GT of their images."""
    queries = {(image, query) for _, image, query in worst}
    images = {image for image, _ in queries}
    return [
        row
        for row in rows
        if (row["kind"] == "gt" and row["image_id"] in images)
        or (row["kind"] == "query" and (row["image_id"], row["index"]) in queries)
    ]


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
