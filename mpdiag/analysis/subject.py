"""What is analysed: a model behind one interface, and what is known of it."""

from dataclasses import dataclass
from typing import Any

from mpdiag.analysis.class_names import ClassMap, class_map
from mpdiag.analysis.interventions import Intervention
from mpdiag.analysis.measure import Matching
from mpdiag.analysis.own_model import DisturbedPart, MatchingPart, PilotedPart
from mpdiag.analysis.segmenter import Segmenter
from mpdiag.analysis.settings import Request, Settings, own_settings
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.data import SegmentationDataset
from mpdiag.errors import CheckpointError, ConfigError


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under the settings of a run.

    Attributes:
        segmenter: the model.
        settings: what its numbers depend on.
        checkpoint: `path` and `sha256`, for run.json, as what follows.
        architecture: its configuration.
        method: how it was trained, where that is known.
    """

    segmenter: Segmenter
    settings: Settings
    checkpoint: dict[str, str]
    architecture: dict[str, Any]
    method: str | None = None


def own_subject(loaded: LoadedCheckpoint, data: SegmentationDataset, request: Request) -> Subject:
    """Our own model.

    Raises:
        CheckpointError: its classes aren't the data set's, or it has no MP part to measure.
        ConfigError: an intervention that it can't do.
    """
    classes = _own_classes(loaded, data)
    if request.part == "piloted" and not loaded.model.config.label_embedding:
        raise CheckpointError(
            f"{loaded.path}: has no class embeddings (label_enc), so no MP part; only "
            "mask-piloted checkpoints can be analysed with --part piloted"
        )
    settings = own_settings(loaded, request)
    return Subject(
        _own_segmenter(loaded, settings, request, classes),
        settings,
        {"path": str(loaded.path), "sha256": loaded.sha256},
        loaded.model.config.model_dump(mode="json"),
        loaded.recipe.method if loaded.recipe else None,
    )


def _own_segmenter(
    loaded: LoadedCheckpoint, settings: Settings, request: Request, classes: ClassMap
) -> Segmenter:
    model, config = loaded.model, loaded.model.config
    size = None
    if settings.short_side is not None and settings.long_side is not None:
        size = (settings.short_side, settings.long_side)
    if request.intervene and request.part == "piloted":
        raise ConfigError(
            "--intervene changes the matching part, and --part piloted measures the other: "
            "give one of them"
        )
    if settings.pilot_layers is not None:
        return PilotedPart(model, size, settings.pilot_layers)
    interventions = [
        Intervention.parse(text, config.decoder_layers, config.num_queries)
        for text in request.intervene
    ]
    if interventions:
        return DisturbedPart(model, size, classes, interventions, Matching(settings))
    return MatchingPart(model, size, classes)


def _own_classes(loaded: LoadedCheckpoint, data: SegmentationDataset) -> ClassMap:
    """Our own files number their classes as their data set does; others' are told by name."""
    source = str(data.describe()["annotation_file"])
    labels = None if loaded.classes else loaded.labels
    found = class_map(
        labels, loaded.model.config.num_classes, data.classes, str(loaded.path), source
    )
    for number, (known, here) in enumerate(zip(loaded.classes or [], data.classes, strict=False)):
        if str(known["name"]).strip() != here.name:
            raise CheckpointError(
                f"{loaded.path}: class {number} is {known['name']}, but in {source} it is "
                f"{here.name}; give the data set that it was trained on"
            )
    return found
