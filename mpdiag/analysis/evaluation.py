"""AP of a run, from the detections that it kept and the annotation file of its data set."""

import math

import pyarrow.parquet as pq

from mpdiag.data import CocoDataset
from mpdiag.metrics.average_precision import file_ap
from mpdiag.store import RunWriter


def average_precision(writer: RunWriter, data: CocoDataset) -> dict[str, float | None]:
    """COCO's averages over the images of the run: ap, ap50, ap75, ap_small, ap_medium, ap_large.

    Fractions, None where no GT counts. Crowds and the annotated areas are taken from the file.
    """
    found = [
        {
            "image_id": row["image_id"],
            "category_id": data.classes[row["label"]].category_id,
            "score": row["score"],
            "segmentation": {"size": [row["height"], row["width"]], "counts": row["counts"]},
        }
        for part in sorted((writer.path / "detections").glob("*.parquet"))
        for row in pq.read_table(part).to_pylist()
    ]
    result = file_ap(data.annotation_file, sorted(writer.done), found)
    values = {
        name: getattr(result, name)
        for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    }
    return {name: None if math.isnan(value) else value for name, value in values.items()}
