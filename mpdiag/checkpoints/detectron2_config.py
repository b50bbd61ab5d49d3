"""Settings of a checkpoint in a detectron2 YAML file and its base files.

Sources of the keys: `config.py`, `maskformer_model.py` and the pixel decoder's `from_config` in
facebookresearch/Mask2Former and IDEA-Research/MP-Former.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mpdiag.checkpoints.detectron2_yaml import (
    META_ARCHITECTURES,
    MISSING,
    Values,
    get,
    is_detectron2_config,
    read_detectron2_config,
)
from mpdiag.config import MAX_SIDE, DataSource, LossConfig, ModelConfig, abbreviate, parse
from mpdiag.errors import ConfigError
from mpdiag.models.swin import is_swin

_log = logging.getLogger(__name__)

LOSS_KEYS = {
    "MODEL.MASK_FORMER.CLASS_WEIGHT": "class_weight",
    "MODEL.MASK_FORMER.MASK_WEIGHT": "mask_weight",
    "MODEL.MASK_FORMER.DICE_WEIGHT": "dice_weight",
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": "no_object_weight",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": "num_points",
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": "oversample_ratio",
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": "importance_sample_ratio",
}
# How mpdiag evaluates; the published configurations have these values.
_EVALUATION = {
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.8,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.8,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}

Resize = Literal["shortest-edge", "none", "other"]


@dataclass(frozen=True, slots=True)
class TrainingInfo:
    """Loss, image size and data set that a model was trained with.

    Attributes:
        loss: matching costs, loss weights and points.
        short_side, long_side: size of images at inference, in pixels; None if unknown.
        resize: how images get this size. "none" keeps their own; "other" is not that of detectron2.
        dataset: held-out images that a detectron2 configuration names; None if unknown.
    """

    loss: LossConfig
    short_side: int | None = None
    long_side: int | None = None
    dataset: DataSource | None = None
    resize: Resize = "shortest-edge"


def find_config(checkpoint: Path) -> Path | None:
    """Return the detectron2 YAML beside a checkpoint: of its name, `config.yaml`, or the only one.

    Files named Base... are ignored. The only file may be one of another tool, for example a list
    of classes. If it can't be read, a warning says so.

    Raises:
        ConfigError: the file of its name, or `config.yaml`, is not readable.
    """
    folder = checkpoint.parent
    found = sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))
    found = [file for file in found if not file.name.startswith("Base")]
    for stem in (checkpoint.stem, "config"):
        named = [file for file in found if file.stem == stem]
        if named:
            return named[0] if is_detectron2_config(named[0]) else None
    if len(found) != 1:
        return None
    try:
        return found[0] if is_detectron2_config(found[0]) else None
    except ConfigError as error:
        _log.warning("%s; it is not used with %s", error, checkpoint)
        return None


def apply_detectron2_config(
    path: Path, config: ModelConfig, num_sampling_points: int, no_object_weight: float | None
) -> tuple[ModelConfig, TrainingInfo]:
    """Read a YAML and return `config` with its settings, and loss, image size and data set.

    Raises:
        ConfigError: see `update_model_config` and `training_info_of`.
    """
    values, source = read_detectron2_config(path), str(path)
    for key, used in _EVALUATION.items():
        if get(values, key) not in (MISSING, used):
            value = abbreviate(get(values, key))
            _log.warning("%s: %s is %s, but mpdiag evaluates with %s", source, key, value, used)
    return (
        update_model_config(values, config, num_sampling_points, source),
        training_info_of(values, source, no_object_weight),
    )


def update_model_config(
    values: Values, config: ModelConfig, num_sampling_points: int, source: str
) -> ModelConfig:
    """Return `config`, which was read from weights, with the settings that only a YAML has.

    Args:
        values: values of the YAML.
        config: architecture read from the weights.
        num_sampling_points: heads times points of the pixel decoder, from the weights.
        source: name of the YAML for errors.

    Raises:
        ConfigError: names the first key that contradicts the weights, or that mpdiag's model does
            not support.
    """
    for key, supported in _supported_values(values):
        given = get(values, key)
        if given is not MISSING and given != supported:
            raise ConfigError(
                f"{source}: {key} is {abbreviate(given)}; only {abbreviate(supported)} is supported"
            )
    for key, found in _values_in_weights(values, config):
        _check_against_weights(get(values, key), key, found, source)
    changes: dict[str, Any] = {}
    heads = get(values, "MODEL.MASK_FORMER.NHEADS")
    if heads is not MISSING:
        changes |= _heads(heads, config, num_sampling_points, source)
    for key, name in (("MODEL.PIXEL_MEAN", "pixel_mean"), ("MODEL.PIXEL_STD", "pixel_std")):
        if get(values, key) is not MISSING:
            changes[name] = get(values, key)
    rate = get(values, "MODEL.SWIN.DROP_PATH_RATE")
    if rate is not MISSING and is_swin(config.backbone):
        changes["backbone"] = config.backbone.model_dump() | {"drop_path_rate": rate}
    return parse(ModelConfig, config.model_dump() | changes, source)


def training_info_of(
    values: Values, source: str, no_object_weight: float | None = None
) -> TrainingInfo:
    """Return loss, image size and data set of a YAML.

    Args:
        values: values of the YAML.
        source: name of the YAML for errors.
        no_object_weight: weight of no-object in the checkpoint, if it has one.

    Raises:
        ConfigError: a value has the wrong type, or the weight of no-object differs.
    """
    given = {name: get(values, key) for key, name in LOSS_KEYS.items()}
    given = {name: value for name, value in given.items() if value is not MISSING}
    if no_object_weight is not None:
        key = "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT"
        given_weight = given.get("no_object_weight", MISSING)
        _check_against_weights(given_weight, key, no_object_weight, source)
        given["no_object_weight"] = no_object_weight
    loss = parse(LossConfig, given, source)
    short, long = "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"
    keeps_size = get(values, short) == 0  # as in detectron2
    sizes = (None, None) if keeps_size else image_sides(values, short, long, source)
    names = get(values, "DATASETS.TEST")
    dataset = names[0] if isinstance(names, list) and names else None
    dataset = dataset if isinstance(dataset, str) else None
    held_out = None if dataset is None else DataSource(dataset)
    resize: Resize = "none" if keeps_size else "shortest-edge"
    return TrainingInfo(loss, *sizes, held_out, resize)


def image_sides(
    values: Values, short_key: str, long_key: str, source: str
) -> tuple[int | None, int | None]:
    """Return short and long side of images at inference, given their keys; None if there is none.

    Raises:
        ConfigError: a side is no whole number from 1 to MAX_SIDE.
    """
    given = [(key, get(values, key)) for key in (short_key, long_key)]
    short, long = (
        None if side in (MISSING, None) else _whole_number(side, key, source, MAX_SIDE)
        for key, side in given
    )
    return short, long


def _values_in_weights(values: Values, config: ModelConfig) -> Iterator[tuple[str, Any]]:
    """Yield keys with their values in the weights."""
    head, former = "MODEL.SEM_SEG_HEAD", "MODEL.MASK_FORMER"
    yield f"{head}.NUM_CLASSES", config.num_classes
    yield f"{head}.CONVS_DIM", config.hidden_dim
    yield f"{head}.MASK_DIM", config.mask_dim
    yield f"{head}.TRANSFORMER_ENC_LAYERS", config.encoder_layers
    yield f"{former}.HIDDEN_DIM", config.hidden_dim
    yield f"{former}.DIM_FEEDFORWARD", config.feedforward_dim
    yield f"{former}.DEC_LAYERS", config.decoder_layers + 1  # counts M^0 as well
    yield f"{former}.NUM_OBJECT_QUERIES", config.num_queries
    backbone = config.backbone
    if is_swin(backbone):
        yield "MODEL.BACKBONE.NAME", "D2SwinTransformer"
        yield "MODEL.SWIN.EMBED_DIM", backbone.embed_dim
        yield "MODEL.SWIN.DEPTHS", list(backbone.depths or ())
        yield "MODEL.SWIN.NUM_HEADS", list(backbone.num_heads or ())
        yield "MODEL.SWIN.WINDOW_SIZE", backbone.window_size
    else:
        yield "MODEL.BACKBONE.NAME", "build_resnet_backbone"
        yield "MODEL.RESNETS.DEPTH", int(backbone.name.removeprefix("resnet"))
        yield "MODEL.RESNETS.STEM_OUT_CHANNELS", backbone.stem_channels
        if backbone.channels is not None and backbone.name not in ("resnet18", "resnet34"):
            yield "MODEL.RESNETS.WIDTH_PER_GROUP", backbone.channels[0]


def _check_against_weights(given: Any, key: str, found: Any, source: str) -> None:
    if given is not MISSING and given != found:
        raise ConfigError(
            f"{source}: {key} is {abbreviate(given)}, but the weights belong to a model with "
            f"{abbreviate(found)}; give the config that the checkpoint was trained with"
        )


def _supported_values(values: Values) -> Iterator[tuple[str, Any]]:
    """Yield keys with the only value that mpdiag's model supports.

    The YAML of a Swin has ResNet keys from its base file, which do not matter.
    """
    if get(values, "MODEL.META_ARCHITECTURE") not in META_ARCHITECTURES:
        yield "MODEL.META_ARCHITECTURE", META_ARCHITECTURES[0]
    yield "INPUT.FORMAT", "RGB"
    yield "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder"
    yield "MODEL.MASK_FORMER.PRE_NORM", False
    if get(values, "MODEL.BACKBONE.NAME") == "D2SwinTransformer":
        yield "MODEL.SWIN.APE", False
        yield "MODEL.SWIN.PATCH_NORM", True
        yield "MODEL.SWIN.PATCH_SIZE", 4
    else:
        yield "MODEL.RESNETS.STRIDE_IN_1X1", False
        yield "MODEL.RESNETS.NUM_GROUPS", 1
        yield "MODEL.RESNETS.RES5_DILATION", 1


def _heads(
    heads: Any, config: ModelConfig, num_sampling_points: int, source: str
) -> dict[str, int]:
    """Return heads, equal in both decoders, and the points that follow from the weights."""
    key = "MODEL.MASK_FORMER.NHEADS"
    heads = _whole_number(heads, key, source, config.hidden_dim)
    if config.hidden_dim % heads or num_sampling_points % heads:
        raise ConfigError(
            f"{source}: {key} is {heads}, which does not divide the {config.hidden_dim} channels "
            f"and {num_sampling_points} sampling points of the weights; give the config that the "
            "checkpoint was trained with"
        )
    return {"num_heads": heads, "encoder_points": num_sampling_points // heads}


def _whole_number(value: Any, key: str, source: str, maximum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= maximum:
        raise ConfigError(
            f"{source}: {key} is {abbreviate(value)}; give a whole number from 1 to {maximum}"
        )
    return value
