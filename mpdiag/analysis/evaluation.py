"""AP or PQ of a run, from the detections that it kept and the annotations of its data set."""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from mpdiag.data import SegmentationDataset
from mpdiag.metrics import PanopticQuality, segment_map
from mpdiag.metrics.average_precision import file_ap
from mpdiag.models import PanopticSegments
from mpdiag.store import RunWriter, rle

Row = dict[str, Any]
Averages = dict[str, float | None]


def evaluation(writer: RunWriter, data: SegmentationDataset) -> dict[str, Averages]:
    """What summary.json says of the last layer: `ap` of instances, or `pq` of a panoptic task.

    Fractions, None where no GT counts.
    """
    if data.task == "panoptic":
        return {"pq": panoptic_quality(writer, data)}
    return {"ap": average_precision(writer, data)}


def average_precision(writer: RunWriter, data: SegmentationDataset) -> Averages:
    """COCO's averages over the images of the run; crowds and areas as annotated in the file."""
    found = [
        {
            "image_id": row["image_id"],
            "category_id": data.classes[row["label"]].category_id,
            "score": row["score"],
            "segmentation": {"size": [row["height"], row["width"]], "counts": row["counts"]},
        }
        for part in _parts(writer)
        for row in part
    ]
    result = file_ap(data.source.path, sorted(writer.done), found)
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    return {name: _known(getattr(result, name)) for name in names}


def panoptic_quality(writer: RunWriter, data: SegmentationDataset) -> Averages:
    """PQ, SQ and RQ over all classes, things and stuff; crowds and void as COCO rules."""
    quality = PanopticQuality([info.isthing for info in data.classes])
    index_of = {image_id: index for index, image_id in enumerate(data.image_ids)}
    remaining = set(writer.done)
    for part in _parts(writer):
        by_image = defaultdict(list)
        for row in part:
            by_image[row["image_id"]].append(row)
        for image_id, rows in by_image.items():
            _compare(quality, data, index_of[image_id], rows)
        remaining -= by_image.keys()
    for image_id in sorted(remaining):  # nothing was found on these
        _compare(quality, data, index_of[image_id], [])
    scores = quality.compute()
    groups = {"": scores.all, "_things": scores.things, "_stuff": scores.stuff}
    return {
        f"{name}{suffix}": _known(getattr(group, name))
        for suffix, group in groups.items()
        for name in ("pq", "sq", "rq")
    }


def _compare(
    quality: PanopticQuality, data: SegmentationDataset, index: int, rows: list[Row]
) -> None:
    annotated = data.truth(index)
    truth = PanopticSegments(segment_map(annotated.masks), annotated.labels)
    decoded = [rle.decode(row["counts"], row["height"], row["width"]) for row in rows]
    found = np.stack(decoded) if decoded else np.zeros((0, *truth.ids.shape), dtype=np.bool_)
    segments = PanopticSegments(
        segment_map(torch.from_numpy(found)),
        torch.tensor([row["label"] for row in rows], dtype=torch.int64),
    )
    quality.update(segments, truth, annotated.crowd)


def _parts(writer: RunWriter) -> Iterator[list[Row]]:
    for part in sorted((writer.path / "detections").glob("*.parquet")):
        yield pq.read_table(part).to_pylist()


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
