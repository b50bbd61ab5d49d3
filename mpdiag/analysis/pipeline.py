"""`mpdiag.analyze`: open a model, adapt it to a data set, and run the analysis."""

import re
from pathlib import Path
from typing import Any

from torch import nn

from mpdiag.analysis.build_adapter import build_adapter
from mpdiag.analysis.choose_dataset import choose_dataset
from mpdiag.analysis.module_state import preserve_state
from mpdiag.analysis.options import AnalysisOptions
from mpdiag.analysis.run import AnalysisRun, Progress
from mpdiag.analysis.shard import Shard
from mpdiag.checkpoints import CustomModel, LoadedCheckpoint
from mpdiag.checkpoints.external_models import ExternalModel
from mpdiag.checkpoints.opening import ModelSource, open_model
from mpdiag.choices import Part
from mpdiag.data import SegmentationDataset

_TRAINING_FILES = ("last", "model_best", "model_final")  # their names do not identify the training


def analyze(
    checkpoint: ModelSource,
    dataset: str | SegmentationDataset | None,
    output: str | Path | None = None,
    *,
    processor: Any = None,
    progress: Progress | None = None,
    shard: Shard | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measure all layers of a model on a data set and write a run directory.

    A module runs in evaluation mode and on the device of the analysis; its modes and devices are
    restored.

    Args:
        checkpoint: a file, training output directory, transformers directory, hub id, loaded
            checkpoint, or module: mpdiag's Mask2Former, a segmentation model of transformers, or an
            official model of detectron2. Any other model as a `CustomModel`, with its
            preprocessing.
        dataset: a name of mpdiag or detectron2, a folder, the path of a COCO-format JSON, or a data
            set; None for the held-out images of the checkpoint's training.
        output: the run directory; by default `runs/CHECKPOINT-DATASET`, with the suffix `-piloted`
            for the MP part.
        processor: image processor of a transformers module; by default that of the directory from
            which the module was loaded.
        progress: called with (images done, number of images) of this process.
        shard: share of this process, if several processes write the run (`torchrun_shard`). All of
            them call this function.
        **options: fields of `mpdiag.analysis.AnalysisOptions`, as in `mpdiag analyze --help`.

    Returns:
        The content of summary.json.

    Raises:
        MpdiagError: checkpoint, data set, options or output are invalid; nothing is written.
        TypeError: an option is unknown.
    """
    with preserve_state(checkpoint):
        return prepare_run(
            checkpoint,
            dataset,
            output,
            processor=processor,
            progress=progress,
            shard=shard,
            **options,
        ).write()


def prepare_run(
    checkpoint: ModelSource,
    dataset: str | SegmentationDataset | None,
    output: str | Path | None = None,
    *,
    processor: Any = None,
    progress: Progress | None = None,
    shard: Shard | None = None,
    **options: Any,
) -> AnalysisRun:
    """Prepare the run of `analyze`, which has the same arguments and errors."""
    chosen = AnalysisOptions(**options)
    model = open_model(checkpoint, chosen.config, chosen.engine, processor)
    if not isinstance(dataset, SegmentationDataset):
        dataset = choose_dataset(dataset, model, chosen)
    adapter = build_adapter(model, dataset, chosen)
    path = default_output(checkpoint, dataset.name, chosen.part) if output is None else Path(output)
    return AnalysisRun(adapter, dataset, chosen, path, shard or Shard(), progress)


def default_output(checkpoint: ModelSource, dataset: str, part: Part) -> Path:
    """Return `runs/CHECKPOINT-DATASET[-PART]`.

    CHECKPOINT is the name of a directory or hub id, the name of a file without suffix, or the class
    of a module. The file of a training in another directory also gets the name of that directory.
    """
    if isinstance(checkpoint, nn.Module):
        name = type(checkpoint).__name__
    elif isinstance(checkpoint, CustomModel | ExternalModel):
        name = Path(checkpoint.name).name
    else:
        path = Path(checkpoint.path if isinstance(checkpoint, LoadedCheckpoint) else checkpoint)
        name = path.resolve().name
        if path.is_file():
            name = path.stem
            if name in _TRAINING_FILES and path.parent != Path():
                name = f"{path.resolve().parent.name}-{name}"
    parts = (name, dataset, *([] if part == "matching" else [part]))
    return Path("runs") / re.sub(r"[^\w.+-]+", "_", "-".join(parts))
