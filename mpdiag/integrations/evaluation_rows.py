"""The measured images of an evaluation during training, as a run directory."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mpdiag.analysis.measure import MeasuredImage
from mpdiag.analysis.saved_masks import change_scores, mask_rows, thumbnail
from mpdiag.analysis.tables import images_table, queries_table, targets_table
from mpdiag.data import ClassInfo, Sample
from mpdiag.errors import ConfigError, OutputError, RunError, describe_os_error
from mpdiag.integrations.batch import Batch
from mpdiag.integrations.measurement import MonitoredImage
from mpdiag.integrations.processes import gather_in_main, rank_and_count
from mpdiag.store import RunWriter
from mpdiag.store.schema import DETECTIONS, MASKS

MASKS_PER_IMAGE = 10  # of the queries that change most

Header = dict[str, Any]


class EvaluationRows:
    """Tables, masks and thumbnails of images, which `write` stores as a run directory."""

    def __init__(self) -> None:
        self._tables: list[tuple[pa.Table, pa.Table, pa.Table]] = []
        self._masks: list[dict[str, Any]] = []
        self._thumbnails: dict[int, bytes] = {}
        self._num_classes = 0

    def add(self, image: MonitoredImage, batch: Batch, class_logits: Tensor) -> None:
        """Add an image whose GT is known; ids count the images of all processes from 1."""
        if image.target is None:
            return
        rank, count = rank_and_count()
        number = len(self._tables) * count + rank + 1
        sample = _sample(number, image, batch)
        measured = MeasuredImage(sample, image.rows, image.matches, {})
        self._num_classes = max(self._num_classes, class_logits.shape[-1] - 1)
        classes = _classes(self._num_classes)
        self._tables.append(
            (images_table(measured), targets_table(measured, classes), queries_table(measured))
        )
        scores = change_scores(measured)
        matched = (image.rows.matched_gt[-1] >= 0).nonzero()[:, 0].tolist()
        chosen = sorted(matched, key=lambda query: (-scores[query], query))[:MASKS_PER_IMAGE]
        self._masks += mask_rows(measured, chosen, scores)
        self._thumbnails[number] = thumbnail(measured)

    def write(
        self, path: Path, header: Header, names: Sequence[str] | None, device: torch.device
    ) -> dict[str, Any]:
        """Write a run directory in the main process, from the rows of all processes.

        Args:
            path: the new directory.
            header: content of run.json besides classes and versions.
            names: names of the classes; "class K" if None.
            device: that of the model.

        Returns:
            Its summary; nothing in other processes.

        Raises:
            RunError: there are no rows, or `path` contains other files.
            OutputError: `path` cannot be written.
            ConfigError: `names` are not those of the model's classes.
        """
        parts = gather_in_main(self, device)
        if not parts:
            return {}
        if not any(part._tables for part in parts):
            raise RunError(
                f"{path}: no held-out image with GT was measured; evaluate between "
                "start_evaluation(keep_rows=True) and finish_evaluation first"
            )
        num_classes = max(part._num_classes for part in parts)
        if names is not None and len(names) != num_classes:
            raise ConfigError(
                f"{path}: {len(names)} names of classes, but the model has {num_classes} classes; "
                "give one name for each"
            )
        classes = [asdict(one) for one in _classes(num_classes, names)]
        versions = {name: version(name) for name in ("mpdiag", "torch", "numpy", "duckdb")}
        created = datetime.now(UTC).isoformat(timespec="seconds")
        given = {"classes": classes, "versions": versions, "created": created}
        try:
            return _write(path, {**header, **given, "name": path.resolve().name}, parts)
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written ({describe_os_error(error, path)}); choose another path"
            ) from None


def _write(path: Path, header: Header, parts: Sequence[EvaluationRows]) -> dict[str, Any]:
    writer = RunWriter.create(path, header)
    for number, part in enumerate(parts):
        if part._tables:
            images, targets, queries = map(pa.concat_tables, zip(*part._tables, strict=True))
            none = DETECTIONS.empty_table()
            writer.write(f"part-{number:05d}", images, targets, queries, none)
        for image_id, jpeg in part._thumbnails.items():
            writer.save_thumbnail(image_id, jpeg)
    masks = [row for part in parts for row in part._masks]
    writer.write_selected("masks", "changed", pa.Table.from_pylist(masks, schema=MASKS))
    return writer.finish()


def _classes(count: int, names: Sequence[str] | None = None) -> list[ClassInfo]:
    names = names or [f"class {index}" for index in range(count)]
    return [ClassInfo(index + 1, name) for index, name in enumerate(names)]


def _sample(number: int, image: MonitoredImage, batch: Batch) -> Sample:
    """Return pixels and GT of an image without its padding."""
    assert image.target is not None
    height, width = batch.images[image.index]
    masks = image.target["masks"].cpu()
    rows, columns = batch.valid_cells(image.index, (masks.shape[-2], masks.shape[-1]))
    pixels = torch.zeros(3, height, width)
    if batch.pixels is not None:
        pixels = batch.pixels[image.index][:, :height, :width].float().cpu()
        # Of one or two channels, such as grey and alpha, the first is shown.
        pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)
    low, high = pixels.min(), pixels.max()
    picture = (pixels - low) / (high - low).clamp(min=1e-6) * 255
    return Sample(
        image_id=number,
        file_name=f"image {number}",
        image=picture.to(torch.uint8),
        masks=masks[:, :rows, :columns],
        labels=image.target["labels"].cpu(),
        original_size=(height, width),
    )
