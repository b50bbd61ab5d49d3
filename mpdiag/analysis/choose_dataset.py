"""Open the data set of an analysis: the given one, or that of the model's training."""

import logging

from mpdiag.analysis.options import AnalysisOptions
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.opening import OpenedModel
from mpdiag.data import SegmentationDataset, load_dataset
from mpdiag.errors import ConfigError

_LOG = logging.getLogger(__name__)


def choose_dataset(
    dataset: str | None, model: OpenedModel, options: AnalysisOptions
) -> SegmentationDataset:
    """Open a data set by name, folder or file.

    Args:
        dataset: None for the held-out images that the recipe or the detectron2 configuration of a
            checkpoint names. The options replace their root, split and task.

    Raises:
        ConfigError: no data set is given, and the checkpoint names none, or one that imports a
            module.
        DataError: the data set cannot be opened.
    """
    if dataset is not None:
        return load_dataset(dataset, root=options.root, split=options.split, task=options.task)
    info = model.training_info if isinstance(model, LoadedCheckpoint) else None
    source = None if info is None else info.dataset
    if source is None:
        raise ConfigError(
            "--dataset: is missing, and the checkpoint names no data set with held-out images; "
            "give one"
        )
    if ":" in source.dataset:
        raise ConfigError(
            f"--dataset: the checkpoint names {source.dataset!r:.200}, which imports a module; "
            "give it as --dataset if you trust the module"
        )
    _LOG.info("data set %s, as in the training of the checkpoint", source.dataset)
    return load_dataset(
        source.dataset,
        root=options.root or source.root,
        split=options.split or source.split,
        task=options.task or source.task,
    )
