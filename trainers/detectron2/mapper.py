"""From an entry of detectron2's catalogs to what a model is trained on, by our augmentation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog

from mpdiag.config import DataConfig
from mpdiag.data import Sample, augmentation
from mpdiag.data.catalog import RecordReader
from mpdiag.data.pictures import read_rgb
from trainers.detectron2.structures import truth_of


class TrainingMapper:
    """Reads what `INPUT.DATASET_MAPPER_NAME` asks for; augmentation is that of `docs/training.md`.

    It draws from the loader's worker's own generator, as detectron2's mappers do.
    """

    def __init__(self, dataset: str, data: DataConfig) -> None:
        """`dataset` is a registered name, whose metadata tells the classes.

        Raises:
            DataError: it does not.
        """
        self._reader = RecordReader(dataset, MetadataCatalog.get(dataset).as_dict(), data.task)
        self._transform = augmentation(data)

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        truth = self._reader.read(record)
        pixels = read_rgb(Path(record["file_name"]))
        sample = Sample(
            image_id=0,
            file_name=record["file_name"],
            image=torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            masks=truth.masks[truth.shown],
            labels=truth.labels[truth.shown],
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
            "instances": truth_of(sample),
        }
