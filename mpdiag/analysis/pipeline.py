"""`mpdiag.analyze`: open a model, adapt it to a data set, and run the analysis."""

import logging
from pathlib import Path
from typing import Any

from torch import nn

from mpdiag.analysis.build_adapter import build_adapter
from mpdiag.analysis.options import AnalysisOptions
from mpdiag.analysis.run import AnalysisRun, Progress
from mpdiag.analysis.shard import Shard
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.opening import open_model
from mpdiag.data import SegmentationDataset, load_dataset
from mpdiag.errors import ConfigError

_LOG = logging.getLogger(__name__)


def analyze(
    checkpoint: str | Path | LoadedCheckpoint | nn.Module,
    dataset: str | SegmentationDataset | None,
    output: str | Path,
    *,
    processor: Any = None,
    progress: Progress | None = None,
    shard: Shard | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measure all layers of a model on a data set and write a run directory.

    Args:
        checkpoint: a file, training output directory, transformers directory, hub id, loaded
            checkpoint, or module: mpdiag's Mask2Former, a segmentation model of transformers, or an
            official model of detectron2.
        dataset: a name of mpdiag or detectron2, a folder, the path of a COCO-format JSON, or a data
            set; None for the test data of the checkpoint's detectron2 config.
        output: the run directory.
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
    chosen = AnalysisOptions(**options)
    model = open_model(checkpoint, chosen.config, chosen.engine, processor)
    if dataset is None:
        info = model.training_info if isinstance(model, LoadedCheckpoint) else None
        if info is None or info.dataset is None:
            raise ConfigError(
                "--dataset: is missing, and no config of the checkpoint names a data set; give one"
            )
        dataset = info.dataset
        _LOG.info("data set %s, from the config of the checkpoint", dataset)
    if not isinstance(dataset, SegmentationDataset):
        dataset = load_dataset(dataset, root=chosen.root, split=chosen.split, task=chosen.task)
    adapter = build_adapter(model, dataset, chosen)
    return AnalysisRun(adapter, dataset, chosen, shard or Shard(), progress).write(Path(output))
