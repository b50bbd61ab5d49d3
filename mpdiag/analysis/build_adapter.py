"""Choose the adapter of a model."""

from mpdiag.analysis.adapter import ModelAdapter
from mpdiag.analysis.mask2former_adapter import (
    IntervenedAdapter,
    Mask2FormerAdapter,
    MPPartAdapter,
)
from mpdiag.analysis.options import AnalysisOptions
from mpdiag.analysis.recorded_adapters import OfficialMask2FormerAdapter, TransformersAdapter
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.opening import OpenedModel
from mpdiag.data import SegmentationDataset
from mpdiag.errors import ConfigError


def build_adapter(
    model: OpenedModel, data: SegmentationDataset, options: AnalysisOptions
) -> ModelAdapter:
    """Build the adapter of a model for a data set.

    Raises:
        CheckpointError: the classes are not those of the data set, or the model does not support
            the part.
        ConfigError: the model does not support an intervention.
        RecordingError: the recorder does not know the family.
    """
    if isinstance(model, LoadedCheckpoint):
        if options.part == "piloted":
            return MPPartAdapter(model, data)
        if options.intervene:
            return IntervenedAdapter(model, data, options)
        return Mask2FormerAdapter(model, data)
    if options.part == "piloted" or options.intervene:
        name = "--part piloted" if options.part == "piloted" else "--intervene"
        raise ConfigError(
            f"{name}: works with models that mpdiag runs, and another library runs {model.name}; "
            "leave it out"
        )
    if model.processor is None:
        return OfficialMask2FormerAdapter(model, data)
    return TransformersAdapter(model, data)
