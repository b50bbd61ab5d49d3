"""Settings as pydantic models, read from YAML with dotted KEY=VALUE overrides."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mpdiag.errors import ConfigError

Settings = TypeVar("Settings", bound=BaseModel)

_ABOUT_KEYS = ("extra_forbidden", "missing")
_UNION_BRANCH = re.compile(r"int|float|str|bool|constrained-.*|literal\[.*|function-.*")
Positive = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A group of settings: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneConfig(Strict):
    """A timm `features_only` model, or the official repositories' Swin under a name of its own.

    `swin_tiny`, `swin_small`, `swin_base` and `swin_large` are the published variants, of which
    the fields below change single values; `swin` is any other and needs the first four of them.
    """

    name: str = "resnet50"
    channels: tuple[int, int, int, int] | None = Field(
        None, description="ResNet: width of the 3x3 convolutions in each stage"
    )
    stem_channels: int = Field(64, description="ResNet: width of the stem")
    norm: Literal["frozen", "batch"] = "frozen"
    embed_dim: int | None = Field(None, ge=1, description="Swin: channels at stride 4")
    depths: tuple[int, int, int, int] | None = Field(None, description="Swin: blocks of each stage")
    num_heads: tuple[int, int, int, int] | None = Field(
        None, description="Swin: attention heads of each stage"
    )
    window: int | None = Field(None, ge=1, description="Swin: side of an attention window")
    drop_path: float = Field(
        0.3, ge=0, lt=1, description="Swin: rate at which the last block is skipped in training"
    )
    pretrained: bool = Field(False, description="start from timm's ImageNet weights")


class ModelConfig(Strict):
    """Architecture of a Mask2Former or MP-Former; defaults are the published R50 model's."""

    num_classes: int = Field(80, ge=1)
    backbone: BackboneConfig = BackboneConfig()
    hidden_dim: int = 256
    mask_dim: int = 256
    heads: int = 8
    encoder_layers: int = 6
    encoder_feedforward_dim: int = 1024
    encoder_points: int = 4
    decoder_layers: int = Field(9, ge=1, description="L; predictions are M^0..M^L")
    feedforward_dim: int = 2048
    num_queries: int = Field(100, ge=1)
    feature_maps: Literal["coarse-to-fine", "all-large"] = Field(
        "coarse-to-fine",
        description="which map each decoder layer attends to: strides 32, 16, 8 in turn, or stride "
        "8 in all (MP-Former, Table 6)",
    )
    query_position: bool = Field(True, description="learnable query positions (Mask2Former)")
    label_embedding: bool = Field(False, description="class embeddings for the MP part")
    pixel_mean: tuple[float, float, float] = (123.675, 116.280, 103.530)
    pixel_std: tuple[float, float, float] = (58.395, 57.120, 57.375)


class LossConfig(Strict):
    """Weights and points of matching and losses; Mask2Former's values."""

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    points: int | Literal["all"] = Field(
        12544, description="points at which masks are compared, or 'all' cells of the predictions"
    )
    oversample: float = 3.0
    importance: float = Field(0.75, ge=0, le=1)
    consistency_weight: float = Field(
        5.0, ge=0, description="of the auxiliary loss between adjacent layers (Eq. 6)"
    )


class PilotConfig(Strict):
    """The MP part (MP-Former, sections 4.2 to 4.4, appendices B and D)."""

    queries: int = Field(100, ge=1, description="n_q, the number of MP queries of an image")
    groups: int | None = Field(
        None,
        ge=1,
        description="so many groups whatever the number of objects, in place of n_q (the released "
        "code's NUM_DN below 100)",
    )
    layers: Positive | Literal["all"] = Field(
        "all", description="the first so many decoder layers attend within GT masks"
    )
    feed: Literal["attention-mask", "feature-mean", "mask-code"] = Field(
        "attention-mask",
        description="how GT masks enter the decoder: as attention masks, or in one of the two ways "
        "of appendix D that fail: the mean feature within a mask as query, or a 16 x 16 mask "
        "through an MLP as position query",
    )
    noise: Literal["point", "shift", "scale", "none"] = "point"
    noise_ratio: float = Field(
        0.2,
        ge=0,
        le=1,
        description="lambda_p of point noise; of shift noise the largest shift as a share of half "
        "the box, of scale noise the largest change of size",
    )
    label_noise: float = Field(0.2, ge=0, le=1, description="lambda_l")
    assignment: Literal["hard", "match"] = Field(
        "hard", description="each query reconstructs its own GT, or the one it matches (Table 6)"
    )
    follow: Literal["paper", "release"] = Field(
        "paper", description="whom to follow where text and code differ; see mask_piloting"
    )


class AugmentConfig(Strict):
    """What training does to an image, in this order; without a resize, it is that of inference.

    Padding to `crop` comes last, at the right and the bottom.
    """

    scale_jitter: tuple[float, float] | None = Field(
        None, description="large-scale jitter: fit into `crop`, then scale by a factor from here"
    )
    short_sides: tuple[Positive, ...] | None = Field(
        None,
        min_length=1,
        description="resize the shorter side to one of these, drawn for each image",
    )
    long_side: int = Field(1333, ge=1, description="the longer side at most, under short_sides")
    crop: tuple[Positive, Positive] | None = Field(
        None, description="height and width of a random window; smaller images are padded to it"
    )
    crop_category_share: float = Field(
        1.0, gt=0, le=1, description="no class fills more of a window, if ten tries find such"
    )
    color: bool = Field(False, description="SSD's jitter of brightness, contrast, saturation, hue")
    flip: bool = True

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.scale_jitter is not None and self.crop is None:
            raise ValueError("scale_jitter needs a crop")
        if self.scale_jitter is not None and self.short_sides is not None:
            raise ValueError("give scale_jitter or short_sides, not both")
        if self.scale_jitter is not None and not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise ValueError("scale_jitter goes from a factor above 0 to a larger one")
        if self.short_sides is not None and max(self.short_sides) > self.long_side:
            raise ValueError("none of short_sides may exceed long_side")
        return self


class DataConfig(Strict):
    """Where training and validation images come from, and their size at inference."""

    dataset: str = "synthetic"
    root: Path | None = None
    task: Literal["instance", "panoptic", "semantic"] = "instance"
    train_split: str = "train"
    val_split: str = "val"
    val_dataset: str | None = Field(
        None, description="held-out images, where they are not the data set's `val_split`"
    )
    batch_size: int = Field(16, ge=1, description="images of a step, over all processes")
    workers: int = Field(0, ge=0)
    short_side: int | None = Field(
        None, ge=1, description="shorter side at inference; None keeps images as they are"
    )
    long_side: int = Field(1333, ge=1)
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="after")
    def _shorter_than_longer(self) -> Self:
        if self.short_side is not None and self.short_side > self.long_side:
            raise ValueError("short_side may not exceed long_side")
        return self


class OptimizerConfig(Strict):
    """AdamW with full-model gradient clipping."""

    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    backbone_multiplier: float = Field(0.1, ge=0)
    clip_norm: float = Field(0.01, gt=0)


class ScheduleConfig(Strict):
    """Linear warm-up, then steps down, or a polynomial decline to zero."""

    iterations: int = Field(368750, ge=1)
    epochs: float | None = Field(None, gt=0, description="in place of iterations, if given")
    warmup: int = Field(0, ge=0, description="steps; the published runs start at the full rate")
    decline: Literal["steps", "poly"] = "steps"
    drops: tuple[float, ...] = Field(
        (327778, 355092), description="steps of the drops; below 1, shares of the run"
    )
    factors: tuple[float, ...] = (0.1, 0.1)
    power: float = Field(0.9, gt=0, description="of the polynomial")

    @model_validator(mode="after")
    def _one_factor_a_drop(self) -> Self:
        if len(self.drops) != len(self.factors):
            raise ValueError("drops and factors must be equally many")
        return self


class TrainConfig(Strict):
    """Everything that a training run depends on."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    method: str = Field("baseline", description="one name, or several joined by +")
    pilot: PilotConfig = PilotConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    init: str | None = Field(
        None, description="weights to start from: a checkpoint, or the name of a packaged one"
    )
    reset_classes: bool = Field(
        False, description="start the class head and class embeddings anew, whatever init has"
    )
    seed: int = Field(0, ge=0)
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="bf16: autocast, with matching and losses in float32"
    )
    accumulate: int = Field(1, ge=1, description="parts that a process's batch is taken in")
    compile: bool = Field(False, description="torch.compile for all but mask piloting and losses")
    log_every: int = Field(20, ge=1)
    checkpoint_every: int = Field(5000, ge=1)
    evaluate_every: int | None = Field(
        5000, ge=1, description="AP, PQ or mIoU on the validation split; None: never"
    )
    diagnose_every: int | None = Field(
        500, ge=1, description="mIoU-L and Util on some held-out images; None: never"
    )
    diagnose_images: int = Field(32, ge=1, description="how many, the first of the split")
    wandb: bool = Field(False, description="log to Weights & Biases too")


class Published(Strict):
    """Where the paper prints a recipe's result, as reports/data/tables.json has its tables."""

    table: str
    row: dict[str, str | int] = Field({}, description="what tells the row from the others")
    results: tuple[str, ...] = Field(min_length=1, description="its columns")


class Translated(Strict):
    """What is to be known of a recipe that was a detectron2 YAML."""

    notes: tuple[str, ...] = Field((), description="sentences on what is not the same here")
    unknown: tuple[str, ...] = Field((), description="its keys that nothing knows, left aside")


class Recipe(Strict):
    """A training run under a name: its settings, what it is for, and what the paper got."""

    name: str
    about: str = ""
    paper: tuple[Published, ...] = ()
    config: TrainConfig
    translated: Translated | None = None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: the file is missing, no YAML, or no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give a recipe's name or a YAML file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not a readable YAML file ({reason})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of settings, not {content!r:.40}")
    return content


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Nested mapping of dotted `KEY=VALUE` words; values are read as YAML.

    Raises:
        ConfigError: a word has no `=`, or its value is no YAML.
    """
    nested: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{pair!r}: a setting is written KEY=VALUE")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{pair!r}: the value is not readable YAML") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    return nested


def parse(kind: type[Settings], values: Mapping[str, Any], source: str) -> Settings:
    """Check `values` against the settings model `kind`.

    Raises:
        ConfigError: one sentence with `source`, the first wrong key and what is wrong with it.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = _dotted(first) or "settings"
        if first["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(kind, first["loc"][:-1]))
            raise ConfigError(f"{source}: unknown key {key!r}; known there: {known}") from None
        given = first.get("input")
        raise ConfigError(f"{source}: {key} = {given!r:.60}: {first['msg'].lower()}") from None


def _dotted(error: Mapping[str, Any]) -> str:
    """The key that an error is about; pydantic names the branches of a union in its path, too."""
    *path, last = error["loc"] or [""]
    is_branch = isinstance(last, str) and path and error["type"] not in _ABOUT_KEYS
    kept = path if is_branch and _UNION_BRANCH.fullmatch(last) else [*path, last]
    return ".".join(str(part) for part in kept)


def _known_keys(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        nested = kind.model_fields[str(part)].annotation
        if not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            return []
        kind = nested
    return list(kind.model_fields)
