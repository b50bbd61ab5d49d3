"""`mpdiag.diagnose`: find what lowers the score of a run or a checkpoint."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpdiag.analysis.build_adapter import matching_part
from mpdiag.analysis.choose_dataset import choose_dataset
from mpdiag.analysis.module_state import preserve_state
from mpdiag.analysis.options import SourceOptions
from mpdiag.analysis.shard import Shard
from mpdiag.checkpoints.opening import ModelSource, OpenedModel, open_model
from mpdiag.data import SegmentationDataset
from mpdiag.diagnosis.batch_store import BatchStore
from mpdiag.diagnosis.collect import Collector
from mpdiag.diagnosis.evidence import Evidence
from mpdiag.diagnosis.model_measures import add_measures
from mpdiag.diagnosis.run_evidence import matching_dataset, read_evidence
from mpdiag.diagnosis.search import Search
from mpdiag.errors import DataError
from mpdiag.ops import tf32
from mpdiag.ops.devices import choose_device
from mpdiag.store import Run
from mpdiag.store.diagnosis import THRESHOLD, Diagnosis

MAX_IMAGES = 500
"""Images that a diagnosis of a checkpoint uses by default."""

MAX_IMAGES_WITH_MASKS = 200
"""The same for PQ and mIoU, whose evidence holds 8 MB of masks per image with 100 queries in 10
layers."""

EXPECTED_PASSES = 5
"""Forward passes over the images that a healthy model takes, roughly."""


def diagnose(
    source: ModelSource,
    dataset: str | SegmentationDataset | None = None,
    *,
    threshold: float = THRESHOLD,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
    shard: Shard | None = None,
    **options: Any,
) -> Diagnosis:
    """Find what costs a model AP, PQ or mIoU, how much, and what to change.

    A run directory is diagnosed from its kept detections. A checkpoint or module runs on the data
    set several times, so that more causes can be tested. A module runs in evaluation mode and on
    the device of the diagnosis; its modes and devices are restored. `cache`, `shard` and `device`
    have no effect on a run, in which no model runs.

    Args:
        source: a run directory, or a model as for `mpdiag.analyze`. A module of transformers must
            have been loaded from a directory with its image processor.
        dataset: as for `mpdiag.analyze`; None for the data set of the run or of the training.
        threshold: score (a fraction) that a cause must cost to be a finding.
        progress: called with (images done, images expected) of this process, over all forward
            passes of a model. How many passes there are depends on what they show, so the second
            number may grow.
        cache: directory that keeps finished batches of a model. A diagnosis that is started again
            with the same directory continues from them.
        shard: share of this process, if several processes run the model (`torchrun_shard`). All of
            them call this function, and get the same diagnosis.
        **options: `config`, `engine`, `root`, `split`, `task`, `limit` and `device`, as in
            `mpdiag diagnose --help`. `limit` is at most 500 images by default for a model (200 for
            panoptic and semantic data sets), and all images for a run.

    Raises:
        MpdiagError: run, model, data set or options are invalid.
        TypeError: an option is unknown.
    """
    chosen = SourceOptions(**options)
    if isinstance(source, str | Path) and Run.exists(source):
        run = Run.open(Path(source))
        dataset = matching_dataset(run, dataset, chosen)
        evidence = read_evidence(run, dataset, chosen.limit)
        _check_gt(evidence, dataset)
        return _named(Search(evidence, threshold).run(), dataset)
    with preserve_state(source):
        model = open_model(source, chosen.config, chosen.engine)
        if not isinstance(dataset, SegmentationDataset):
            dataset = choose_dataset(dataset, model, chosen)
        with tf32("none"):  # results do not depend on the generation of the GPU
            found = _diagnose_model(model, dataset, chosen, threshold, progress, cache, shard)
        return _named(found, dataset)


def _named(diagnosis: Diagnosis, data: SegmentationDataset) -> Diagnosis:
    """Return the diagnosis with the names of the data set's classes."""
    return replace(diagnosis, class_names=tuple(one.name for one in data.classes))


def _diagnose_model(
    model: OpenedModel,
    dataset: SegmentationDataset,
    chosen: SourceOptions,
    threshold: float,
    progress: Callable[[int, int], None] | None,
    cache: Path | None,
    shard: Shard | None,
) -> Diagnosis:
    """Diagnose a model; see `diagnose`."""
    adapter = matching_part(model, dataset)
    device = choose_device(chosen.device)
    adapter.to(device)
    limit = MAX_IMAGES if dataset.task == "instance" else MAX_IMAGES_WITH_MASKS
    count = min(chosen.limit or limit, len(dataset))
    shard = shard or Shard()
    expected = EXPECTED_PASSES * math.ceil(count / shard.world_size)
    done = 0

    def count_images(images: int) -> None:
        nonlocal done
        done += images
        if progress:
            progress(done, max(done, expected))

    store = None if cache is None else BatchStore(cache, adapter, dataset.task)
    collector = Collector(adapter, dataset, range(count), device, count_images, store, shard)
    evidence = collector.collect(every_layer=True)
    _check_gt(evidence, dataset)
    search = Search(evidence, threshold, collector)
    return add_measures(search.run(), collector, evidence, search.gains)


def _check_gt(evidence: Evidence, data: SegmentationDataset) -> None:
    """Raise DataError if the images have no GT, without which no score is defined."""
    if all(image.gt_crowd.all() for image in evidence.images):
        raise DataError(
            f"{data.name}: the images have no annotated objects ({len(evidence.images)} used); "
            "give images with objects, or a higher --limit"
        )
