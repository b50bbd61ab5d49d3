"""Choose the adapter of a model."""

from mpdiag.analysis.adapter import ModelAdapter
from mpdiag.analysis.custom_adapter import CustomAdapter
from mpdiag.analysis.intervened_adapter import IntervenedAdapter
from mpdiag.analysis.mask2former_adapter import Mask2FormerAdapter, MPPartAdapter
from mpdiag.analysis.options import AnalysisOptions
from mpdiag.analysis.recorded_adapters import OfficialMask2FormerAdapter, TransformersAdapter
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.custom_model import CustomModel
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
        ConfigError: the model does not support an intervention, or has fewer layers than
            `pilot_layers`.
        RecordingError: the recorder does not know the family.
    """
    if options.part == "piloted":
        return _mp_part(model, data, options.pilot_layers)
    adapter = matching_part(model, data)
    return IntervenedAdapter(adapter, options) if options.intervene else adapter


def matching_part(model: OpenedModel, data: SegmentationDataset) -> ModelAdapter:
    """Build the adapter of the matching part; see `build_adapter`."""
    if isinstance(model, LoadedCheckpoint):
        return Mask2FormerAdapter(model, data)
    if isinstance(model, CustomModel):
        return CustomAdapter(model, data)
    if model.processor is None:
        return OfficialMask2FormerAdapter(model, data)
    return TransformersAdapter(model, data)


def _mp_part(
    model: OpenedModel, data: SegmentationDataset, pilot_layers: int | None
) -> ModelAdapter:
    if isinstance(model, LoadedCheckpoint):
        return MPPartAdapter(model, data, pilot_layers)
    raise ConfigError(
        f"--part piloted: works with models that mpdiag runs, and another library runs "
        f"{model.name}; leave it out"
    )
