"""One run of an analysis: measure a model on a data set and write the run directory."""

import logging
import platform
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from mpdiag import __version__
from mpdiag.analysis.adapter import ModelAdapter
from mpdiag.analysis.measure import MeasuredImage, Measurer
from mpdiag.analysis.options import AnalysisOptions, SavePolicy
from mpdiag.analysis.run_evaluation import evaluate_run
from mpdiag.analysis.saved_masks import MaskSaver, merge_shards
from mpdiag.analysis.settings import AnalysisSettings
from mpdiag.analysis.shard import Shard
from mpdiag.analysis.tables import detections_table, images_table, queries_table, targets_table
from mpdiag.data import SegmentationDataset, read_ahead
from mpdiag.errors import DataError, RunError
from mpdiag.evaluation import build_evaluator
from mpdiag.printable import printable
from mpdiag.store import RunWriter
from mpdiag.store.database import connect
from mpdiag.store.lock import lock_directory

IMAGES_PER_PART = 32
_LOG = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class AnalysisRun:
    """A model on a data set, under the settings that follow from the options."""

    def __init__(
        self,
        adapter: ModelAdapter,
        data: SegmentationDataset,
        options: AnalysisOptions,
        output: Path,
        shard: Shard,
        progress: Progress | None = None,
    ) -> None:
        """Prepare the run; nothing is written.

        Raises:
            ConfigError: attention is requested, and the model has none that can be recorded; or the
                device is not available.
        """
        self.output = output
        self.adapter = adapter
        self.data = data
        self.settings = AnalysisSettings.derive(adapter.info.settings, options)
        self.shard = shard
        self.progress = progress
        self.save_policy = SavePolicy.parse(options.save_masks)
        self.evaluate = self.settings.options.evaluate
        evaluator = build_evaluator(data, self.settings.model.inference) if self.evaluate else None
        self.measurer = Measurer(adapter, self.settings, evaluator)

    def write(self) -> dict[str, Any]:
        """Measure the images of this shard, write the run directory and return its summary.

        Raises:
            DataError: an image or annotation is unreadable; the run can be resumed.
            RunError: `output` can't hold the run, or another process writes to it.
        """
        with ExitStack() as locks:
            writer = self.shard.run_on_main_process(lambda: self._begin(locks))
            start = time.perf_counter()
            try:
                self._measure(writer)
                self.shard.barrier()
                return self.shard.run_on_main_process(lambda: self._finish(writer, start))
            except DataError as error:
                raise DataError(f"{error}; then continue with --resume") from error

    def _begin(self, locks: ExitStack) -> RunWriter:
        locks.enter_context(lock_directory(self.output))
        resume = self.settings.options.resume
        writer = RunWriter.create(self.output, self._header(), resume=resume)
        for place, image_id in enumerate(self.data.image_ids if writer.done else ()):
            name = self.data.file_name(place)
            if writer.done.get(image_id, name) != name:  # ids may be positions
                raise RunError(
                    f"{self.output}: image {image_id} is {writer.done[image_id]}, but {name} in "
                    "the data set, which has changed; analyse again in another directory"
                )
        merge_shards(writer, self.save_policy)
        return writer

    def _measure(self, writer: RunWriter) -> None:
        limit = self.settings.options.limit or len(self.data)
        blocks = self.shard.blocks(min(limit, len(self.data)), IMAGES_PER_PART)
        saver = MaskSaver(writer, self.save_policy, self.shard.rank)
        total = sum(map(len, blocks))
        ids, done_ids = self.data.image_ids, set(writer.done)
        left = [[place for place in block if ids[place] not in done_ids] for block in blocks]
        pending = [block for block in left if block]
        done = total - sum(map(len, pending))
        samples = read_ahead(self.data.__getitem__, chain(*pending), self.settings.options.workers)
        parts = (islice(samples, len(block)) for block in pending)
        with closing(self.measurer.measure(parts)) as measured:
            for block in pending:
                tables = []
                for image in islice(measured, len(block)):
                    saver.add(image)
                    tables.append(self._tables(image))
                    done += 1
                    if self.progress:
                        self.progress(done, total)
                name = writer.part_name(block[0] // IMAGES_PER_PART)
                saver.write(name)
                writer.write(name, *map(pa.concat_tables, zip(*tables, strict=True)))

    def _tables(self, image: MeasuredImage) -> tuple[pa.Table, ...]:
        return (
            images_table(image),
            targets_table(image, self.data.classes),
            queries_table(image),
            detections_table(image),
        )

    def _finish(self, writer: RunWriter, start: float) -> dict[str, Any]:
        merge_shards(writer, self.save_policy)
        scores: dict[str, Any] = {}
        if self.evaluate:
            options = self.settings.options
            scores = evaluate_run(
                writer.path,
                self.data,
                every_layer=options.evaluate_layers,
                workers=options.workers,
            )
        seconds = round(time.perf_counter() - start, 3)
        timings = {"seconds": seconds, "processes": self.shard.world_size}
        summary = writer.finish(timings, scores)
        if summary["non_finite"]:
            _warn_of_non_finite(writer.path)
        return summary

    def _header(self) -> dict[str, Any]:
        """Return the content of run.json."""
        info, description = self.adapter.info, self.data.describe()
        packages = ("torch", "torchvision", "timm", "numpy", "scipy", "duckdb", *info.packages)
        return {
            "checkpoint": {"path": info.path, "sha256": info.sha256},
            "architecture": info.architecture,
            "method": info.method,
            "dataset": {
                key: None if description[key] is None else str(description[key])
                for key in ("name", "annotation_file", "image_root", "split")
            },
            "task": description["task"],
            "part": self.settings.options.part,
            "classes": [asdict(one) for one in self.data.classes],
            "settings": self.settings.as_json(),
            "versions": {
                "mpdiag": __version__,
                "python": platform.python_version(),
                **{package: version(package) for package in packages},
            },
            "device": str(self.measurer.device),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "name": self.output.resolve().name,
        }


def _warn_of_non_finite(path: Path) -> None:
    with connect(path) as connection:
        rows = connection.execute(
            "SELECT count(*) OVER (), file_name, layer, query "
            "FROM queries JOIN images USING (image_id) WHERE area IS NULL "
            "ORDER BY image_id, layer, query LIMIT 1"
        ).fetchall()
        layers = connection.execute(
            "SELECT layer FROM queries GROUP BY layer HAVING count(area) = 0 ORDER BY layer"
        ).fetchall()
    for count, file_name, layer, query in rows:
        _LOG.warning(
            "%s: %s predictions hold NaN or infinity; averages leave them out. The first is of %s, "
            "layer %s, query %s",
            *(path, count, printable(file_name), layer, query),
        )
    for (layer,) in layers:
        _LOG.warning("%s: layer %s has no finite prediction", path, layer)
