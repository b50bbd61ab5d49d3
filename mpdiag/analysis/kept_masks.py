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

    def __init__(self, writer: RunWriter, policy: KeepPolicy) -> None:
        self._writer = writer
        self._policy = policy
        self._rows: list[dict[str, Any]] = []
        self._worst: list[tuple[float, int, int]] = []  # badness, image, query; worst first
        kept = writer.path / "masks" / f"{WORST}.parquet"
        if kept.is_file():
            rows = pq.read_table(kept).to_pylist()
            self._rows = [row for row in rows if row["image_id"] in writer.done]
            self._worst = sorted(
                {
                    (row["badness"], row["image_id"], row["index"])
                    for row in self._rows
                    if row["kind"] == "query"
                },
                key=_order,
            )

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
            self._writer.save_thumbnail(image.sample.image_id, _thumbnail(image))

    def write(self, part: str) -> None:
        """Write what is kept so far; with `all`, the masks of this part."""
        if self._policy.count == 0:
            return
        if self._policy.count is None:
            self._writer.write_masks(part, pa.Table.from_pylist(self._rows, schema=MASKS))
            self._rows = []
            return
        self._rows = list(self._still_worst())
        self._writer.write_masks(WORST, pa.Table.from_pylist(self._rows, schema=MASKS))
        images = {image for _, image, _ in self._worst}
        for thumbnail in (self._writer.path / "thumbnails").glob("*.jpg"):
            if int(thumbnail.stem) not in images:
                thumbnail.unlink()

    def _still_worst(self) -> Iterator[dict[str, Any]]:
        queries = {(image, query) for _, image, query in self._worst}
        images = {image for image, _ in queries}
        for row in self._rows:
            if (row["kind"] == "gt" and row["image_id"] in images) or (
                (row["image_id"], row["index"]) in queries and row["kind"] == "query"
            ):
                yield row


def badness(image: MeasuredImage) -> list[float]:
    """For each query, the sum over layers of 1 - IoU with the layer before."""
    rows = image.rows
    union = rows.area[:-1] + rows.area[1:] - rows.intersection
    change = 1 - rows.intersection.double() / union.clamp(min=1)
    values: list[float] = torch.where(union > 0, change, 0.0).sum(0).tolist()
    return values


def _order(entry: tuple[float, int, int]) -> tuple[float, int, int]:
    return -entry[0], entry[1], entry[2]


def _encode(image: MeasuredImage, queries: list[int], bad: list[float]) -> Iterator[dict[str, Any]]:
    masks = image.rows.masks[:, queries].cpu().numpy()
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
    picture = Image.fromarray(image.sample.image.permute(1, 2, 0).numpy())
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
