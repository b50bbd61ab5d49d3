"""What is analysed: a model behind one interface, and what is known of it."""

from dataclasses import dataclass
from typing import Any

from mpdiag.analysis.class_names import ClassMap, class_map
from mpdiag.analysis.interventions import Intervention
from mpdiag.analysis.measure import Matching
from mpdiag.analysis.own_model import DisturbedPart, MatchingPart, PilotedPart
from mpdiag.analysis.preprocessing import Preprocessing
from mpdiag.analysis.recorded_model import OfficialModel, TransformersModule
from mpdiag.analysis.segmenter import Segmenter
from mpdiag.analysis.settings import (
    Request,
    Settings,
    own_settings,
    settings_for,
)
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.library_models import LibraryModel
from mpdiag.checkpoints.loading import LONG_SIDE, SHORT_SIDE
from mpdiag.checkpoints.official_modules import OfficialModule
from mpdiag.checkpoints.opening import AnyModel
from mpdiag.checkpoints.transformers_config import loss_of
from mpdiag.config import LossConfig
from mpdiag.data import SegmentationDataset
from mpdiag.errors import CheckpointError, ConfigError
from mpdiag.models import InstanceRule
from mpdiag.recording import family_of

# By transformers' model type, where it isn't Mask2Former's: whose instances, and settings of the
# costs. DETR, Conditional DETR and MaskFormer match by other terms; they get Mask2Former's costs.
_RULES: dict[str, InstanceRule] = {
    "detr": "detr",
    "conditional_detr": "sigmoid",
    "rf_detr": "sigmoid",
}
_OTHER_TERMS = ("detr", "conditional_detr", "maskformer")
_RF_DETR_COSTS = {
    "class_weight": "class_cost",
    "mask_weight": "mask_class_loss_coefficient",
    "dice_weight": "mask_dice_loss_coefficient",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under the settings of a run.

    Attributes:
        segmenter: the model.
        settings: what its numbers depend on.
        checkpoint: `path` and `sha256`, for run.json, as what follows.
        architecture: its configuration.
        method: how it was trained, where that is known.
        packages: whose versions run.json has besides those that every run depends on.
    """

    segmenter: Segmenter
    settings: Settings
    checkpoint: dict[str, str]
    architecture: dict[str, Any]
    method: str | None = None
    packages: tuple[str, ...] = ()


def subject_of(model: AnyModel, data: SegmentationDataset, request: Request) -> Subject:
    """A model that is to be measured on a data set.

    Raises:
        CheckpointError: its classes aren't the data set's, or it can't be measured as asked.
        ConfigError: an intervention that it can't do.
        RecordingError: the recorder knows no such family.
    """
    if isinstance(model, LoadedCheckpoint):
        return _own_subject(model, data, request)
    if request.part == "piloted" or request.intervene:
        asked = "--part piloted" if request.part == "piloted" else "--intervene"
        raise ConfigError(
            f"{asked} is for models that mpdiag itself runs, and {model.name} is run by another "
            "library; leave it out"
        )
    if isinstance(model, OfficialModule):
        return _official_subject(model, data, request)
    return _library_subject(model, data, request)


def _official_subject(
    model: OfficialModule, data: SegmentationDataset, request: Request
) -> Subject:
    count = model.num_classes
    classes = class_map(model.labels, count, data.classes, model.name, _source(data))
    size = (SHORT_SIDE, LONG_SIDE)
    return Subject(
        OfficialModel(model.module, size, model.divisibility, classes),
        settings_for(request, model.loss, size=size),
        {"path": model.name, "sha256": model.sha256},
        {"family": family_of(model.module).name, "num_classes": count},
    )


def _library_subject(model: LibraryModel, data: SegmentationDataset, request: Request) -> Subject:
    family, config = family_of(model.module), model.settings
    kind = str(config["model_type"])
    rule = _RULES.get(kind, "mask2former")
    classes = class_map(
        model.labels,
        len(config["id2label"]),
        data.classes,
        model.name,
        _source(data),
        exclusive=rule != "sigmoid",
    )
    preprocess = Preprocessing(model.processor, model.module, data.task, model.name)
    settings = settings_for(
        request,
        _loss(config, kind, model.name),
        inference=rule,
        image_processor=preprocess.settings,
    )
    return Subject(
        TransformersModule(model.module, preprocess, classes),
        settings,
        {"path": model.name, "sha256": model.sha256},
        {
            "family": family.name,
            "notes": list(family.notes),
            "module": type(model.module).__name__,
            **{key: value for key, value in config.items() if key not in ("id2label", "label2id")},
        },
        packages=("transformers",),
    )


def _loss(config: dict[str, Any], kind: str, name: str) -> LossConfig:
    """Costs of matching, where a family matches by our terms."""
    if kind in _OTHER_TERMS:
        return LossConfig()
    if kind == "rf_detr":
        config = {ours: config[theirs] for ours, theirs in _RF_DETR_COSTS.items()}
    return loss_of(config, LossConfig(), name)


def _own_subject(loaded: LoadedCheckpoint, data: SegmentationDataset, request: Request) -> Subject:
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
    labels = None if loaded.classes else loaded.labels
    count, source = loaded.model.config.num_classes, _source(data)
    found = class_map(labels, count, data.classes, str(loaded.path), source)
    for number, (known, here) in enumerate(zip(loaded.classes or [], data.classes, strict=False)):
        if str(known["name"]).strip() != here.name:
            raise CheckpointError(
                f"{loaded.path}: class {number} is {known['name']}, but in {source} it is "
                f"{here.name}; give the data set that it was trained on"
            )
    return found


def _source(data: SegmentationDataset) -> str:
    return str(data.describe()["annotation_file"])
