"""Configuration as pydantic models, read from YAML files and KEY=VALUE overrides.

Merging and overrides take 40 lines here. OmegaConf would add a dependency and a second type system
beside pydantic, which checks types, ranges and unknown keys and words the errors.
"""

import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
    field_serializer,
    model_validator,
)

from mpdiag import untrusted
from mpdiag.choices import PilotVariant, Task, Tf32
from mpdiag.errors import ConfigError

Settings = TypeVar("Settings", bound=BaseModel)

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 20

_ERRORS_ABOUT_KEYS = ("extra_forbidden", "missing")
_UNION_BRANCH = re.compile(r"int|float|str|bool|constrained-.*|literal\[.*|function-.*")
Positive = Annotated[int, Field(ge=1)]
# Limits of values that a checkpoint or a recipe may state.
_Width = Annotated[int, Field(ge=1, le=2**16)]
_Depth = Annotated[int, Field(ge=1, le=64)]
_Layers = Annotated[int, Field(ge=0, le=100)]
MAX_SIDE = 2**13  # of an image, in pixels
_Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class Strict(BaseModel):
    """Base class of configurations: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BackboneConfig(Strict):
    """Configuration of a backbone: a timm `features_only` model, or the official Swin.

    `swin_tiny`, `swin_small`, `swin_base` and `swin_large` are the published variants; the Swin
    fields below override single values. `swin` is any other Swin and needs the first four fields.
    """

    name: str = "resnet50"
    channels: tuple[_Width, _Width, _Width, _Width] | None = Field(
        None, description="ResNet: width of the 3x3 convolutions in each stage"
    )
    stem_channels: _Width = Field(64, description="ResNet: width of the stem")
    norm: Literal["frozen", "batch"] = "frozen"
    embed_dim: _Width | None = Field(None, description="Swin: channels at stride 4")
    depths: tuple[_Depth, _Depth, _Depth, _Depth] | None = Field(
        None, description="Swin: blocks per stage"
    )
    num_heads: tuple[_Width, _Width, _Width, _Width] | None = Field(
        None, description="Swin: attention heads per stage"
    )
    window_size: int | None = Field(
        None, ge=1, le=24, description="Swin: side of an attention window"
    )
    drop_path_rate: float = Field(
        0.3, ge=0, lt=1, description="Swin: rate at which training skips the last block"
    )
    pretrained: bool = Field(False, description="start from timm's ImageNet weights")


class ModelConfig(Strict):
    """Architecture of a Mask2Former or MP-Former. Defaults are those of the published R50 model."""

    num_classes: _Width = 80
    backbone: BackboneConfig = BackboneConfig()
    hidden_dim: _Width = 256
    mask_dim: _Width = 256
    num_heads: _Width = 8
    encoder_layers: _Layers = 6
    encoder_feedforward_dim: _Width = 1024
    encoder_points: _Width = 4
    decoder_layers: _Layers = Field(9, ge=1, description="L; predictions are M^0..M^L")
    feedforward_dim: _Width = 2048
    num_queries: _Width = 100
    feature_maps: Literal["coarse-to-fine", "all-large"] = Field(
        "coarse-to-fine",
        description="feature map of each decoder layer: strides 32, 16, 8 in turn, or stride 8 in "
        "all layers (MP-Former, Table 6)",
    )
    masked_attention: bool = Field(
        True,
        description="queries of the matching part attend within the masks of the layer before; "
        "false: everywhere (Mask2Former's ablation), while MP queries keep GT masks",
    )
    query_position: bool = Field(True, description="learnable query positions (Mask2Former)")
    label_embedding: bool = Field(False, description="class embeddings for the MP part")
    pixel_mean: tuple[float, float, float] = (123.675, 116.280, 103.530)
    pixel_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.120, 57.375)

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if self.hidden_dim % 32 or self.hidden_dim % self.num_heads:
            raise ValueError("hidden_dim must be a multiple of 32 and of num_heads")
        return self


class LossConfig(Strict):
    """Weights and points of matching and losses. Defaults are those of Mask2Former."""

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    num_points: Annotated[int, Field(ge=1, le=2**20)] | Literal["all"] = Field(
        12544, description="points at which masks are compared; 'all' for every cell"
    )
    oversample_ratio: float = Field(3.0, ge=1, le=100)
    importance_sample_ratio: float = Field(0.75, ge=0, le=1)


class PilotConfig(Strict):
    """Configuration of the MP part (MP-Former, sections 4.2 to 4.4, appendices B and D)."""

    num_queries: int = Field(100, ge=1, description="n_q, the number of MP queries per image")
    num_groups: int | None = Field(
        None,
        ge=1,
        description="number of groups, whatever the number of objects; replaces n_q (NUM_DN below "
        "100 in the official code)",
    )
    layers: Positive | Literal["all"] = Field(
        "all", description="number of decoder layers, from the first, that attend within GT masks"
    )
    query_input: Literal["attention-mask", "feature-mean", "mask-code"] = Field(
        "attention-mask",
        description="how GT masks enter the decoder: as attention masks, or by one of the two ways "
        "of appendix D that fail: the mean feature within a mask as query, or a 16 x 16 mask "
        "through an MLP as position query",
    )
    noise: Literal["point", "shift", "scale", "cell", "neighbour", "none"] = Field(
        "point",
        description="noise on the masks; cell and neighbour act on each layer's own grid and are "
        "not in the paper",
    )
    noise_ratio: float = Field(
        0.2,
        ge=0,
        le=1,
        description="lambda_p of point noise; largest shift of shift noise, relative to half the "
        "box; largest change of size of scale noise; share of the boundary cells that cell noise "
        "flips; largest share of the nearest other object that neighbour noise adds",
    )
    label_noise: float = Field(0.2, ge=0, le=1, description="lambda_l")
    assignment: Literal["hard", "match"] = Field(
        "hard",
        description="each query reconstructs its own GT, or the GT that it matches (Table 6)",
    )
    variant: PilotVariant = Field(
        "paper",
        description="follow the paper or the official code where they differ; see mask_piloting",
    )


class AugmentConfig(Strict):
    """Augmentation, in the order of the fields. Without a resize, images get the inference size.

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
    long_side: _Side = Field(1333, description="maximum of the longer side under short_sides")
    crop: tuple[Positive, Positive] | None = Field(
        None, description="height and width of a random crop; smaller images are padded to it"
    )
    single_category_max_area: float = Field(
        1.0, gt=0, le=1, description="maximum share of one class in a crop, in up to ten tries"
    )
    color: bool = Field(False, description="SSD's jitter of brightness, contrast, saturation, hue")
    flip: bool = True

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.scale_jitter is not None and self.crop is None:
            raise ValueError("scale_jitter needs a crop")
        if self.scale_jitter is not None and self.short_sides is not None:
            raise ValueError("give scale_jitter or short_sides, not both")
        if self.scale_jitter is not None and not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise ValueError("scale_jitter needs two factors above 0, the smaller one first")
        if self.short_sides is not None and max(self.short_sides) > self.long_side:
            raise ValueError("none of short_sides may exceed long_side")
        return self


class DataSource(NamedTuple):
    """One split of a data set, as `mpdiag.data.load_dataset` takes it."""

    dataset: str
    root: Path | None = None
    split: str | None = None
    task: Task | None = None


class DataConfig(Strict):
    """Training and validation images, and their size at inference."""

    dataset: str = "synthetic"
    root: Path | None = None
    task: Task = "instance"
    train_split: str = "train"
    val_split: str = "val"
    val_dataset: str | None = Field(
        None, description="data set of held-out images; None: `val_split` of `dataset`"
    )
    val_root: Path | None = Field(None, description="root of the held-out images; None: `root`")
    batch_size: int = Field(16, ge=1, description="images per step, over all processes")
    num_workers: int = Field(0, ge=0)
    short_side: _Side | None = Field(
        None, description="shorter side at inference; None keeps the size of the image"
    )
    long_side: _Side = 1333
    augment: AugmentConfig = AugmentConfig()

    @property
    def training(self) -> DataSource:
        """The training images."""
        return DataSource(self.dataset, self.root, self.train_split, self.task)

    @property
    def held_out(self) -> DataSource:
        """The held-out images."""
        dataset, root = self.val_dataset or self.dataset, self.val_root or self.root
        return DataSource(dataset, root, self.val_split, self.task)

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        if self.short_side is not None and self.short_side > self.long_side:
            raise ValueError("short_side may not exceed long_side")
        return self


class OptimizerConfig(Strict):
    """AdamW with clipping of the full model's gradient norm."""

    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    backbone_lr_multiplier: float = Field(0.1, ge=0)
    clip_norm: float = Field(0.01, gt=0, allow_inf_nan=True, description="inf: no clipping")

    @field_serializer("clip_norm", when_used="json")
    def _write_infinity(self, value: float) -> float | str:
        return "inf" if value == float("inf") else value  # JSON has no infinity


class ScheduleConfig(Strict):
    """Learning-rate schedule: linear warm-up, then multistep or polynomial decay."""

    iterations: int = Field(368750, ge=1)
    epochs: float | None = Field(None, gt=0, description="replaces iterations, if given")
    warmup_iterations: int = Field(0, ge=0, description="the published runs have no warm-up")
    policy: Literal["multistep", "poly"] = "multistep"
    milestones: tuple[float, ...] = Field(
        (327778, 355092), description="iterations; values below 1 are shares of the run"
    )
    gammas: tuple[float, ...] = Field((0.1, 0.1), description="one factor per milestone")
    power: float = Field(0.9, gt=0, description="of polynomial decay")

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if len(self.milestones) != len(self.gammas):
            raise ValueError("milestones and gammas must have the same length")
        return self


class TrainConfig(Strict):
    """Configuration of a training run.

    Sections of training methods that are not declared here are kept as they are, so that a
    checkpoint can be read without the package `trainers`; `trainers.methods.FullTrainConfig` checks
    them and refuses unknown keys.
    """

    model_config = ConfigDict(extra="allow")

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    method: str = Field("baseline", description="one name, or several joined by +")
    pilot: PilotConfig = PilotConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    init: str | None = Field(
        None, description="initial weights: a checkpoint, or the name of packaged weights"
    )
    reset_classes: bool = Field(
        False, description="initialize class head and class embeddings randomly, despite init"
    )
    seed: int = Field(0, ge=0, lt=2**63)
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="bf16: autocast, with matching and losses in float32"
    )
    tf32: Tf32 = Field(
        "convolutions",
        description="use of TF32 on NVIDIA GPUs in float32 operators: in none, in convolutions as "
        "is PyTorch's default, or also in matrix products",
    )
    channels_last: bool = Field(
        False, description="memory format of the model's weights and feature maps"
    )
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="number of parts of a process's batch"
    )
    compile: bool = Field(
        False, description="torch.compile of backbone, pixel decoder and decoder layers"
    )
    log_every: int = Field(20, ge=1)
    checkpoint_every: int = Field(5000, ge=1)
    evaluate_every: int | None = Field(
        5000, ge=1, description="AP, PQ or mIoU on the validation split; None: never"
    )
    layer_metrics_every: int | None = Field(
        500, ge=1, description="mIoU-L and Util on some held-out images; None: never"
    )
    layer_metrics_images: int = Field(
        32, ge=1, description="number of images for layer metrics, from the first of the split"
    )
    wandb: bool = Field(False, description="also log to Weights & Biases")


class PaperResult(Strict):
    """Reference to a result in the paper's tables (reports/data/tables.json)."""

    table: str
    row: dict[str, str | int] = Field({}, description="values that identify the row")
    results: tuple[str, ...] = Field(min_length=1, description="columns of the result")


class TranslationNotes(Strict):
    """Notes on a recipe that was translated from a detectron2 YAML."""

    notes: tuple[str, ...] = Field((), description="what differs from detectron2")
    unknown: tuple[str, ...] = Field((), description="unknown keys, ignored")


class Recipe(Strict):
    """A named training run: its configuration, its purpose, and the paper's results."""

    name: str
    description: str = ""
    paper: tuple[PaperResult, ...] = ()
    config: TrainConfig
    translation: TranslationNotes | None = None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not contain a mapping.
    """
    try:
        content = untrusted.read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give a recipe's name or a YAML file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({error})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must contain a mapping of settings, not {abbreviate(content)}")
    return content


def abbreviate(value: Any) -> str:
    """Return the text of a value for messages, at most 60 characters."""
    return f"{_REPR.repr(value):.60}"


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated by `changes`, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Return the nested mapping of dotted `KEY=VALUE` arguments, with values in YAML.

    Raises:
        ConfigError: an argument has no `=`, or its value is not YAML.
    """
    nested: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{abbreviate(pair)}: not a setting; write KEY=VALUE")
        try:
            value = untrusted.read_yaml(text)
        except ValueError:
            raise ConfigError(f"{abbreviate(pair)}: the value is not readable YAML") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    return nested


def parse(kind: type[Settings], values: Mapping[str, Any], source: str) -> Settings:
    """Validate `values` as a `kind`.

    Raises:
        ConfigError: names `source`, the first invalid key, and what is wrong with it.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = _dotted(first) or "settings"
        if first["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(kind, first["loc"][:-1]))
            raise ConfigError(f"{source}: unknown key {key!r}; known keys: {known}") from None
        given = abbreviate(first.get("input"))
        raise ConfigError(f"{source}: {key} = {given}: {first['msg'].lower()}") from None


def _dotted(error: Mapping[str, Any]) -> str:
    """Return the key of an error, without the branches of unions that pydantic adds to it."""
    *path, last = error["loc"] or [""]
    is_branch = isinstance(last, str) and path and error["type"] not in _ERRORS_ABOUT_KEYS
    kept = path if is_branch and _UNION_BRANCH.fullmatch(last) else [*path, last]
    return ".".join(str(part) for part in kept)


def _known_keys(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        nested = kind.model_fields[str(part)].annotation
        if not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            return []
        kind = nested
    return list(kind.model_fields)
