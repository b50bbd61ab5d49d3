"""Dataset mapper: from entries of detectron2's catalogs to augmented training samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog

from mpdiag.config import DataConfig
from mpdiag.data import Sample, build_augmentation
from mpdiag.data.dataset import require_same_size
from mpdiag.data.detectron2_catalog import RecordReader
from mpdiag.data.image_files import read_rgb
from trainers.detectron2.structures import instances_from_sample


class TrainingMapper:
    """Reads the annotations of `INPUT.DATASET_MAPPER_NAME` and applies mpdiag's augmentation.

    Random numbers come from the generator of the data loader's worker, as in detectron2's mappers.
    """

    def __init__(self, dataset: str, data: DataConfig) -> None:
        """Initialize for a registered `dataset`.

        Raises:
            DataError: its metadata does not name the classes.
        """
        self._dataset = dataset
        self._reader = RecordReader(dataset, MetadataCatalog.get(dataset).as_dict(), data.task)
        self._transform = build_augmentation(data)

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        truth = self._reader.read(record)
        path = Path(record["file_name"])
        pixels = read_rgb(path)
        require_same_size(path, pixels.shape[:2], self._dataset, truth.masks.shape[1:])
        sample = Sample(
            image_id=0,
            file_name=record["file_name"],
            image=torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            masks=truth.masks[truth.is_target],
            labels=truth.labels[truth.is_target],
            original_size=(pixels.shape[0], pixels.shape[1]),
        )
        seed = int(torch.randint(2**63 - 1, ()))
        sample = self._transform(sample, torch.Generator().manual_seed(seed))
        height, width = sample.original_size
        kept = {key: record[key] for key in ("file_name", "image_id") if key in record}
        return {
            **kept,
            "height": height,
            "width": width,
            "image": sample.image,
            "instances": instances_from_sample(sample),
        }
