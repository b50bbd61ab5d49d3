"""What a detectron2 YAML, with the files that it is based on, says about a checkpoint.

Keys and their use: `config.py`, `maskformer_model.py` and the pixel decoder's `from_config` in
facebookresearch/Mask2Former and IDEA-Research/MP-Former.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpdiag.checkpoints.detectron2_yaml import (
    META_ARCHITECTURES,
    MISSING,
    Values,
    get,
    is_detectron2,
    short,
)
from mpdiag.config import LossConfig, ModelConfig, parse
from mpdiag.errors import ConfigError
from mpdiag.models.swin import is_swin

LOSS_KEYS = {
    "MODEL.MASK_FORMER.CLASS_WEIGHT": "class_weight",
    "MODEL.MASK_FORMER.MASK_WEIGHT": "mask_weight",
    "MODEL.MASK_FORMER.DICE_WEIGHT": "dice_weight",
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": "no_object_weight",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": "points",
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": "oversample",
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": "importance",
}
# Things and stuff of the data sets that detectron2 and Mask2Former register, by a piece of their
# names; the first that fits.
_CLASSES = (
    ("coco_2017", "panoptic", (80, 53)),
    ("coco_2017", "", (80, 0)),
    ("ade20k_panoptic", "", (100, 50)),
    ("ade20k_instance", "", (100, 0)),
    ("ade20k_sem_seg", "", (0, 150)),
    ("cityscapes_fine_panoptic", "", (8, 11)),
    ("cityscapes_fine_instance", "", (8, 0)),
    ("cityscapes_fine_sem_seg", "", (0, 19)),
    ("ade20k_full_sem_seg", "", (0, 847)),
    ("mapillary_vistas_panoptic", "", (37, 28)),
    ("mapillary_vistas_sem_seg", "", (0, 65)),
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a config says beyond the architecture.

    Attributes:
        loss: matching costs, loss weights and points.
        short_side, long_side: images at inference, in pixels; None where it does not say.
        dataset: detectron2's name of the test data.
        things, stuff: number of classes of each kind, where the data set is known.
    """

    loss: LossConfig
    short_side: int | None = None
    long_side: int | None = None
    dataset: str | None = None
    things: int | None = None
    stuff: int | None = None


def find_config(checkpoint: Path) -> Path | None:
    """The detectron2 YAML beside a checkpoint file: of its name, `config.yaml`, or the only one.

    Files named Base... are left to those that are based on them.
    """
    folder = checkpoint.parent
    found = sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))
    found = [file for file in found if not file.name.startswith("Base")]
    for stem in (checkpoint.stem, "config"):
        named = [file for file in found if file.stem == stem]
        if named:
            return named[0] if is_detectron2(named[0]) else None
    return found[0] if len(found) == 1 and is_detectron2(found[0]) else None


def apply_to_model(
    values: Values, config: ModelConfig, sampled_points: int, source: str
) -> ModelConfig:
    """Architecture `config`, as read from weights, with what only a YAML tells.

    Args:
        values: of the YAML.
        config: read from the weights.
        sampled_points: heads times points of the pixel decoder, as the weights have it.
        source: the YAML's name for errors.

    Raises:
        ConfigError: names the first key that contradicts the weights, or that our model can't do.
    """
    for key, needed in _fixed(values):
        given = get(values, key)
        if given is not MISSING and given != needed:
            raise ConfigError(
                f"{source}: {key} is {short(given)}; only {short(needed)} can be read"
            )
    for key, found in _told_by_weights(values, config):
        _check_told(get(values, key), key, found, source)
    changes: dict[str, Any] = {}
    heads = get(values, "MODEL.MASK_FORMER.NHEADS")
    if heads is not MISSING:
        changes |= _heads(heads, config, sampled_points, source)
    for key, name in (("MODEL.PIXEL_MEAN", "pixel_mean"), ("MODEL.PIXEL_STD", "pixel_std")):
        if get(values, key) is not MISSING:
            changes[name] = get(values, key)
    rate = get(values, "MODEL.SWIN.DROP_PATH_RATE")
    if rate is not MISSING and is_swin(config.backbone):
        changes["backbone"] = config.backbone.model_dump() | {"drop_path": rate}
    return parse(ModelConfig, config.model_dump() | changes, source)


def setup_of(values: Values, source: str, no_object_weight: float | None = None) -> Setup:
    """Losses, image size and classes.

    Args:
        values: of the YAML.
        source: the YAML's name for errors.
        no_object_weight: as the checkpoint has it among its weights, if it does.

    Raises:
        ConfigError: a value of the wrong kind, or another weight of no-object.
    """
    given = {name: get(values, key) for key, name in LOSS_KEYS.items()}
    given = {name: value for name, value in given.items() if value is not MISSING}
    if no_object_weight is not None:
        key = "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT"
        _check_told(given.get("no_object_weight", MISSING), key, no_object_weight, source)
        given["no_object_weight"] = no_object_weight
    loss = parse(LossConfig, given, source)
    sizes = [
        _positive(get(values, key), key, source)
        for key in ("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
    ]
    names = get(values, "DATASETS.TEST")
    dataset = str(names[0]) if isinstance(names, list) and names else None
    things, stuff = _kinds(dataset) if dataset else (None, None)
    return Setup(loss, sizes[0], sizes[1], dataset, things, stuff)


def _told_by_weights(values: Values, config: ModelConfig) -> Iterator[tuple[str, Any]]:
    """Keys with what the weights say of them."""
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
        yield "MODEL.SWIN.WINDOW_SIZE", backbone.window
    else:
        yield "MODEL.BACKBONE.NAME", "build_resnet_backbone"
        yield "MODEL.RESNETS.DEPTH", int(backbone.name.removeprefix("resnet"))
        yield "MODEL.RESNETS.STEM_OUT_CHANNELS", backbone.stem_channels
        if backbone.channels is not None and backbone.name not in ("resnet18", "resnet34"):
            yield "MODEL.RESNETS.WIDTH_PER_GROUP", backbone.channels[0]


def _check_told(given: Any, key: str, found: Any, source: str) -> None:
    if given is not MISSING and given != found:
        raise ConfigError(
            f"{source}: {key} is {short(given)}, but the weights are those of a model with "
            f"{short(found)}; give the config that the checkpoint was trained with"
        )


def _fixed(values: Values) -> Iterator[tuple[str, Any]]:
    """Keys of which our model knows one value; a Swin's YAML still has its base's ResNet keys."""
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


def _heads(heads: Any, config: ModelConfig, sampled_points: int, source: str) -> dict[str, int]:
    """The same heads in both decoders; the points then follow from the pixel decoder's weights."""
    key = "MODEL.MASK_FORMER.NHEADS"
    heads = _positive(heads, key, source)
    if config.hidden_dim % heads or sampled_points % heads:
        raise ConfigError(
            f"{source}: {key} is {heads}, but the weights have {config.hidden_dim} channels and "
            f"{sampled_points} sampling points to share among heads; give the config that the "
            "checkpoint was trained with"
        )
    return {"heads": heads, "encoder_points": sampled_points // heads}


def _kinds(dataset: str) -> tuple[int | None, int | None]:
    for prefix, piece, kinds in _CLASSES:
        if dataset.startswith(prefix) and piece in dataset:
            return kinds
    return None, None


def _positive(value: Any, key: str, source: str) -> Any:
    if value is MISSING:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{source}: {key} is {short(value)}; give a whole number above 0")
    return value
