"""How good a run's last layer is, from the detections that it kept."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
import torch

from mpdiag.data import SegmentationDataset
from mpdiag.evaluation import Evaluator, Found, Scores
from mpdiag.store import RunWriter

Row = dict[str, Any]


def evaluation(writer: RunWriter, data: SegmentationDataset) -> dict[str, Scores]:
    """What summary.json says of the last layer: `ap`, `pq` or `miou`, by the task, over the run."""
    evaluator = Evaluator(data)
    index_of = {image_id: index for index, image_id in enumerate(data.image_ids)}
    for image_id, found in _images(writer):
        evaluator.update(index_of[image_id], found)
    return {evaluator.headline: evaluator.scores()}


def _images(writer: RunWriter) -> Iterator[tuple[int, Found]]:
    """Each image of the run with what was found on it, which may be nothing."""
    for part in sorted((writer.path / "images").glob("*.parquet")):
        by_image: defaultdict[int, list[Row]] = defaultdict(list)
        for row in pq.read_table(writer.path / "detections" / part.name).to_pylist():
            by_image[row["image_id"]].append(row)
        for image in pq.read_table(part, columns=["image_id", "height", "width"]).to_pylist():
            size = image["height"], image["width"]
            yield image["image_id"], _found(by_image[image["image_id"]], size)


def _found(rows: list[Row], size: tuple[int, int]) -> Found:
    return Found(
        scores=torch.tensor([row["score"] for row in rows], dtype=torch.float64),
        labels=torch.tensor([row["label"] for row in rows], dtype=torch.int64),
        queries=torch.tensor([row["query"] for row in rows], dtype=torch.int64),
        size=size,
        counts=[row["counts"] for row in rows],
    )
