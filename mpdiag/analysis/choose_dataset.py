"""Open the data set of an analysis: the given one, or that of the model's training."""

import logging
from pathlib import Path

from mpdiag.analysis.options import SourceOptions
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.opening import OpenedModel
from mpdiag.config import DataSource
from mpdiag.data import SegmentationDataset, load_dataset
from mpdiag.data.registry import held_out_source, imports_module
from mpdiag.errors import ConfigError, DataError

_LOG = logging.getLogger(__name__)


def choose_dataset(
    dataset: str | None, model: OpenedModel, options: SourceOptions
) -> SegmentationDataset:
    """Open a data set by name, folder or file.

    Args:
        dataset: None for the held-out images that the recipe or the detectron2 configuration of a
            checkpoint names. The options replace their root, split and task.

    Raises:
        ConfigError: no data set is given, and the checkpoint names none, or one that imports a
            module.
        DataError: the data set cannot be opened. A synthetic one is not generated in a folder that
            the checkpoint names.
    """
    if dataset is not None:
        return load_dataset(dataset, root=options.root, split=options.split, task=options.task)
    source = _held_out(model, options) if isinstance(model, LoadedCheckpoint) else None
    if source is None:
        raise ConfigError(
            "--dataset: is missing, and the checkpoint names no data set with held-out images; "
            "give one"
        )
    if imports_module(source.dataset, source.root):
        raise ConfigError(
            f"--dataset: the checkpoint names {source.dataset!r:.200}, which imports a module; "
            "give it as --dataset if you trust the module"
        )
    where = f" in {source.root}" if source.root else ""
    _LOG.info("data set %s%s, as in the training of the checkpoint", source.dataset, where)
    named = None if options.root else source.root  # by the checkpoint
    if named and source.dataset == "synthetic" and not (named / "synthetic").is_dir():
        raise DataError(f"{named}: has no synthetic data set; give its folder as --root")
    return load_dataset(
        source.dataset,
        root=source.root,
        split=options.split or source.split,
        task=options.task or source.task,
    )


def _held_out(model: LoadedCheckpoint, options: SourceOptions) -> DataSource | None:
    """Return the held-out images of a training, in the root of the options if they have one."""
    root = options.root and Path(options.root)
    if model.recipe is not None:
        data = model.recipe.data
        moved = {"root": root, "val_root": None} if root else {}
        try:
            return held_out_source(data.model_copy(update=moved))
        except ConfigError:
            return None
    info = model.training_info
    if info is None or info.dataset is None:
        return None
    return info.dataset._replace(root=root or info.dataset.root)
