"""Run a checkpoint over a data set and measure every layer of every query."""

import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import nn

from mpdiag import __version__
from mpdiag.analysis.evaluation import evaluation
from mpdiag.analysis.kept_masks import KeepPolicy, MaskKeeper, unite
from mpdiag.analysis.measure import Measurer
from mpdiag.analysis.settings import MatchPoints, Part, Request, Settings
from mpdiag.analysis.shard import Shard
from mpdiag.analysis.subject import Subject, subject_of
from mpdiag.analysis.tables import (
    detections_table,
    images_table,
    queries_table,
    targets_table,
)
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.opening import AnyModel, Engine, open_model
from mpdiag.data import SegmentationDataset, load_dataset
from mpdiag.errors import ConfigError, DataError
from mpdiag.evaluation import Evaluator
from mpdiag.store import Run, RunWriter

IMAGES_IN_A_PART = 32
_LOG = logging.getLogger(__name__)


def analyze(
    checkpoint: str | Path | LoadedCheckpoint | nn.Module,
    dataset: str | SegmentationDataset | None,
    output: str | Path,
    *,
    config: str | Path | None = None,
    engine: Engine | None = None,
    processor: Any = None,
    root: Path | None = None,
    split: str | None = None,
    task: str | None = None,
    limit: int | None = None,
    part: Part = "matching",
    save_masks: str = "worst:50",
    save_attention: bool = False,
    match_points: MatchPoints | None = None,
    evaluate: bool = True,
    evaluate_layers: bool = False,
    intervene: Sequence[str] = (),
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
    shard: Shard | None = None,
) -> dict[str, Any]:
    """Record all layers over a data set, match each, and write a run directory.

    Args:
        checkpoint: file, training output directory, transformers directory, hub id, what
            `load_checkpoint` gave, or a module as it is: our Mask2Former, one of transformers'
            segmenters, or an official model that detectron2 built.
        dataset: name (ours or detectron2's), folder, path of a COCO-format JSON, or a data set;
            None for the test data that the checkpoint's detectron2 config names.
        output: the run directory.
        config: a detectron2 YAML for what the checkpoint's weights do not tell.
        engine: "transformers" has a transformers directory run by that library also where mpdiag
            could; other families always are.
        processor: the image processor of a module that was given as it is; by default that of the
            directory which it was loaded from.
        root, split, task: where a named data set is, and which part of it; see `load_dataset`.
        limit: the first so many images.
        part: the matching part, or the MP part (GT fed as in training: one group, no noise;
            predictions matched again by bipartite matching, Table 1's starred rows).
        save_masks: `worst:K`, `all` or `none`.
        save_attention: also keep, for the queries whose masks are kept, where they may look and
            look in each decoder layer; of the matching part alone.
        match_points: number of seeded points to match on, or "all" cells; by default what the
            checkpoint was trained with, else 12,544.
        evaluate: also keep the last layer's detections at the images' own size and compute their
            AP, PQ or mIoU, by the task; of the matching part alone.
        evaluate_layers: the same of every layer, each taken as the final one; detections of all
            layers are kept, which takes L + 1 times as long and as much space.
        intervene: what to change in the model, as `attention=gt:1-3`
            (`mpdiag.analysis.interventions`); of the matching part alone.
        resume: go on with an unfinished run in `output`.
        progress: called with (images done, images in all), both of this process.
        shard: this process's part, where several write one run (`torchrun_shard`); all call this.

    Returns:
        The content of summary.json.

    Raises:
        MpdiagError: what is wrong with checkpoint, data set, settings or `output`, before
            anything is written.
    """
    # A mistake is told before anything is read.
    if KeepPolicy.parse(save_masks).count == 0 and save_attention:
        raise ConfigError(
            f"--save-attention is for queries whose masks are kept, and --save-masks {save_masks} "
            "keeps none: choose worst:K or all"
        )
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: give the number of images to analyse, at least 1")
    request = Request(
        part=part,
        match_points=match_points,
        limit=limit,
        save_masks=save_masks,
        save_attention=save_attention,
        evaluate=evaluate,
        evaluate_layers=evaluate_layers,
        intervene=tuple(intervene),
    )
    model = open_model(checkpoint, config, engine, processor)
    if dataset is None:
        dataset = _named_by(model)
    data = (
        dataset
        if isinstance(dataset, SegmentationDataset)
        else load_dataset(dataset, root=root, split=split, task=task)
    )
    subject = subject_of(model, data, request)
    settings = subject.settings
    evaluator = Evaluator(data, settings.inference) if settings.evaluate else None
    measurer = Measurer(subject.segmenter, settings, evaluator)
    header = _header(subject, data, part, str(measurer.device))
    header["name"] = Path(output).resolve().name
    return _write_run(
        Path(output), header, data, measurer, settings, resume, shard or Shard(), progress
    )


def _named_by(model: AnyModel) -> str:
    """The data set of the config that was read with a checkpoint."""
    setup = model.setup if isinstance(model, LoadedCheckpoint) else None
    if setup is None or setup.dataset is None:
        raise ConfigError("which data? give --dataset, since no config of the checkpoint names any")
    _LOG.info("data set %s, as the checkpoint's config says", setup.dataset)
    return setup.dataset


def _write_run(
    output: Path,
    header: dict[str, Any],
    data: SegmentationDataset,
    measurer: Measurer,
    settings: Settings,
    resume: bool,
    shard: Shard,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    policy = KeepPolicy.parse(settings.save_masks)

    def begin() -> RunWriter:
        writer = RunWriter.create(output, header, resume=resume)
        unite(writer, policy)
        return writer

    def finish() -> dict[str, Any]:
        unite(writer, policy)
        extra: dict[str, Any] = {}
        if settings.evaluate:
            extra = evaluation(writer, data, every_layer=settings.evaluate_layers)
        seconds = round(time.perf_counter() - started, 3)
        summary = writer.finish({"seconds": seconds, "processes": shard.world}, extra)
        if summary["non_finite"]:
            _warn_of_non_finite(output)
        return summary

    writer = shard.lead(begin)
    started = time.perf_counter()
    keeper = MaskKeeper(writer, policy, shard.rank)
    try:
        _write_parts(writer, data, measurer, keeper, settings, shard, progress)
    except DataError as error:
        raise DataError(f"{error}, and go on with --resume") from error
    shard.wait()
    return shard.lead(finish)


def _warn_of_non_finite(path: Path) -> None:
    lost = Run.open(path).query(
        "SELECT file_name, layer, query FROM queries JOIN images USING (image_id) "
        "WHERE area IS NULL ORDER BY image_id, layer, query"
    )
    first = lost.iloc[0]
    _LOG.warning(
        "%s: %s predictions hold NaN or infinity and are left out of all averages; the first is of "
        "%s, layer %s, query %s",
        *(path, len(lost), first["file_name"], first["layer"], first["query"]),
    )


def _write_parts(
    writer: RunWriter,
    data: SegmentationDataset,
    measurer: Measurer,
    keeper: MaskKeeper,
    settings: Settings,
    shard: Shard,
    progress: Callable[[int, int], None] | None,
) -> None:
    blocks = shard.blocks(min(settings.limit or len(data), len(data)), IMAGES_IN_A_PART)
    done, total = 0, sum(map(len, blocks))
    for indices in blocks:
        done += len(indices)
        if data.image_ids[indices[0]] in writer.done:
            continue
        images, targets, queries, detections = [], [], [], []
        for image in measurer.measure(data[index] for index in indices):
            keeper.add(image)
            images.append(images_table(image))
            targets.append(targets_table(image, data.classes))
            queries.append(queries_table(image))
            detections.append(detections_table(image))
            if progress:
                progress(done - len(indices) + len(images), total)
        name = f"part-{indices[0] // IMAGES_IN_A_PART:05d}"
        keeper.write(name)
        writer.write(name, *map(pa.concat_tables, (images, targets, queries, detections)))


def _header(subject: Subject, data: SegmentationDataset, part: Part, device: str) -> dict[str, Any]:
    described = data.describe()
    packages = ("torch", "torchvision", "timm", "numpy", "scipy", "duckdb", *subject.packages)
    return {
        "checkpoint": subject.checkpoint,
        "architecture": subject.architecture,
        "method": subject.method,
        "dataset": {
            key: None if described[key] is None else str(described[key])
            for key in ("name", "annotation_file", "image_root", "split")
        },
        "task": described["task"],
        "part": part,
        "classes": [asdict(info) for info in data.classes],
        "settings": subject.settings.as_json(),
        "versions": {
            "mpdiag": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "device": device,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
