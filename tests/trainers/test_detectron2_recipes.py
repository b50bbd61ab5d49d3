"""Translation of detectron2 YAML files, against the packaged recipes and key by key."""

import bisect
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from mpdiag.checkpoints import load_checkpoint
from mpdiag.config import Recipe, TrainConfig
from mpdiag.errors import ConfigError
from trainers.loop import train
from trainers.optimizer import lr_factor
from trainers.recipe import load_recipe, read_recipe, recipe_text

# Keys and structure of the official files, with the numbers of the runs named below.
BASE = """
MODEL:
  BACKBONE: {FREEZE_AT: 0, NAME: "build_resnet_backbone"}
  WEIGHTS: "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  RESNETS: {DEPTH: 50, STEM_TYPE: "basic", STEM_OUT_CHANNELS: 64, STRIDE_IN_1X1: False,
            OUT_FEATURES: ["res2", "res3", "res4", "res5"], RES5_MULTI_GRID: [1, 1, 1]}
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.0001
  WARMUP_FACTOR: 1.0
  WARMUP_ITERS: 10
  WEIGHT_DECAY: 0.05
  OPTIMIZER: "ADAMW"
  BACKBONE_MULTIPLIER: 0.1
  CLIP_GRADIENTS: {ENABLED: True, CLIP_TYPE: "full_model", CLIP_VALUE: 0.01, NORM_TYPE: 2.0}
  AMP: {ENABLED: True}
TEST: {EVAL_PERIOD: 5000}
DATALOADER: {FILTER_EMPTY_ANNOTATIONS: True, NUM_WORKERS: 4}
VERSION: 2
"""
COCO = """
_BASE_: base.yaml
DATASETS:
  TRAIN: ("coco_2017_train",)
  TEST: ("coco_2017_val",)
SOLVER:
  STEPS: (327778, 355092)
  MAX_ITER: 368750
INPUT: {IMAGE_SIZE: 1024, MIN_SCALE: 0.1, MAX_SCALE: 2.0, FORMAT: "RGB",
        DATASET_MAPPER_NAME: "coco_instance_lsj"}
"""
ADE20K = """
_BASE_: base.yaml
DATASETS:
  TRAIN: ("ade20k_panoptic_train",)
  TEST: ("ade20k_panoptic_val",)
SOLVER: {MAX_ITER: 160000, WARMUP_ITERS: 0, LR_SCHEDULER_NAME: "WarmupPolyLR"}
INPUT:
  MIN_SIZE_TRAIN: !!python/object/apply:eval ["[int(x * 0.1 * 640) for x in range(5, 21)]"]
  MIN_SIZE_TRAIN_SAMPLING: "choice"
  MIN_SIZE_TEST: 640
  MAX_SIZE_TRAIN: 2560
  MAX_SIZE_TEST: 2560
  CROP:
    ENABLED: True
    TYPE: "absolute"
    SIZE: (640, 640)
    SINGLE_CATEGORY_MAX_AREA: 1.0
  COLOR_AUG_SSD: True
  SIZE_DIVISIBILITY: 640
  FORMAT: "RGB"
  DATASET_MAPPER_NAME: "mask_former_panoptic"
"""
MODEL = """
_BASE_: {base}
MODEL:
  META_ARCHITECTURE: "MaskFormer"
  SEM_SEG_HEAD:
    NAME: "MaskFormerHead"
    NUM_CLASSES: {classes}
    CONVS_DIM: 256
    MASK_DIM: 256
    NORM: "GN"
    PIXEL_DECODER_NAME: "MSDeformAttnPixelDecoder"
    IN_FEATURES: ["res2", "res3", "res4", "res5"]
    DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES: ["res3", "res4", "res5"]
    TRANSFORMER_ENC_LAYERS: 6
  MASK_FORMER:
    TRANSFORMER_DECODER_NAME: "MultiScaleMaskedTransformerDecoder"
    TRANSFORMER_IN_FEATURE: "multi_scale_pixel_decoder"
    DEEP_SUPERVISION: True
    NO_OBJECT_WEIGHT: 0.1
    CLASS_WEIGHT: 2.0
    MASK_WEIGHT: 5.0
    DICE_WEIGHT: 5.0
    HIDDEN_DIM: 256
    NUM_OBJECT_QUERIES: 100
    NHEADS: 8
    DROPOUT: 0.0
    DIM_FEEDFORWARD: 2048
    PRE_NORM: False
    ENFORCE_INPUT_PROJ: False
    SIZE_DIVISIBILITY: 32
    DEC_LAYERS: 10
    TRAIN_NUM_POINTS: 12544
    OVERSAMPLE_RATIO: 3.0
    IMPORTANCE_SAMPLE_RATIO: 0.75
    TEST: {{SEMANTIC_ON: False, OVERLAP_THRESHOLD: 0.8, OBJECT_MASK_THRESHOLD: 0.8}}
"""
SWIN = """
_BASE_: model.yaml
MODEL:
  BACKBONE: {NAME: "D2SwinTransformer"}
  SWIN: {EMBED_DIM: 192, DEPTHS: [2, 2, 18, 2], NUM_HEADS: [6, 12, 24, 48], WINDOW_SIZE: 12,
         APE: False, DROP_PATH_RATE: 0.3, PATCH_NORM: True, PRETRAIN_IMG_SIZE: 384}
  WEIGHTS: "swin_large_patch4_window12_384_22k.pkl"
  MASK_FORMER: {NUM_OBJECT_QUERIES: 200}
"""
FORMER = "MODEL.MASK_FORMER"
# Arguments of MP-Former's scripts, with the numbers of the paper's appendix B.
PILOTED = [
    "MODEL.DN.NUM_DN", "100", "MODEL.DN.NOISE_SCALE", "0.2",
    f"{FORMER}.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoderMaskDN",
    f"{FORMER}.DN_MODE", "points", f"{FORMER}.ALL_LY_DN", "True", f"{FORMER}.DN_NO_LB", "False",
    f"{FORMER}.LB_NOISE_RATIO", "0.2",
]  # fmt: skip


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "coco.yaml").write_text(COCO)
    (tmp_path / "model.yaml").write_text(MODEL.format(base="coco.yaml", classes=80))
    return tmp_path / "model.yaml"


@pytest.fixture
def ade20k(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "ade20k.yaml").write_text(ADE20K)
    (tmp_path / "model.yaml").write_text(MODEL.format(base="ade20k.yaml", classes=150))
    return tmp_path / "model.yaml"


def flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found


def differences(found: TrainConfig, recipe: str) -> dict[str, Any]:
    """Return the settings that differ from a packaged recipe."""
    here, there = flat(found.model_dump()), flat(load_recipe(recipe).model_dump())
    return {key: here[key] for key in here if here[key] != there[key]}


def notes(recipe: Recipe) -> str:
    assert recipe.translation is not None
    return "\n".join(recipe.translation.notes)


def test_a_detectron2_file_does_not_import_modules(coco: Path) -> None:
    text = COCO.replace("coco_2017_train", "evil:x")
    (coco.parent / "coco.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"data\.dataset = 'evil:x' imports a module"):
        load_recipe(coco)
    assert load_recipe(coco, ["data.dataset=evil:x"]).data.dataset == "evil:x"


def test_coco_is_the_packaged_recipe(coco: Path) -> None:
    assert not differences(load_recipe(coco), "table3-mask2former-r50-coco-instance")


def test_ade20k_is_the_packaged_recipe(ade20k: Path) -> None:
    """In packaged recipes the number of classes follows from the data set."""
    found = differences(load_recipe(ade20k), "table2-mask2former-r50-panoptic")
    assert found == {"model.num_classes": 150}


def test_swin_is_the_packaged_recipe(ade20k: Path) -> None:
    ade20k.with_name("swin.yaml").write_text(SWIN)
    found = load_recipe(ade20k.with_name("swin.yaml"))
    assert differences(found, "table2-mask2former-swin-l-panoptic") == {"model.num_classes": 150}


def test_mp_former_is_the_packaged_recipe_with_the_official_variant(coco: Path) -> None:
    """The paper and the code of MP-Former differ; a YAML follows the code."""
    steps = ["SOLVER.STEPS", "(73750, 81125)", "SOLVER.MAX_ITER", "88500"]
    found = load_recipe(coco, [*PILOTED, *steps])
    assert differences(found, "table4-5-all-layers") == {"pilot.variant": "official"}


def test_official_script_has_one_group_and_no_mask_noise(coco: Path) -> None:
    changes = [*PILOTED, "MODEL.DN.NUM_DN", "1", "MODEL.DN.NOISE_SCALE", "0.0"]
    pilot = load_recipe(coco, changes).pilot
    assert (pilot.num_groups, pilot.noise_ratio, pilot.label_noise) == (1, 0.0, 0.2)


def test_number_of_layers_with_gt_masks(coco: Path) -> None:
    """Layer 1, and the layers after layers 1, 2 and 3: the code's `flag = i < 3`."""
    found = load_recipe(coco, [*PILOTED, f"{FORMER}.ALL_LY_DN", "False"])
    assert found.pilot.layers == 4


def test_plain_decoder_of_mp_former_uses_mean_features(coco: Path) -> None:
    recipe = read_recipe(coco, ["MODEL.DN.NUM_DN", "5", "MODEL.DN.NOISE_SCALE", "0.2"])
    config = recipe.config
    assert (config.method, config.pilot.query_input, config.pilot.num_groups) == (
        "piloted", "feature-mean", 5
    )  # fmt: skip
    assert not config.model.query_position and config.pilot.label_noise == 0
    assert "MultiScaleMaskedTransformerDecoderMaskDN" in notes(recipe)
    config = load_recipe(coco, ["MODEL.DN.NUM_DN", "0"])
    assert config.method == "baseline" and not config.model.query_position


@pytest.mark.parametrize(
    "changes, message",
    [
        ([f"{FORMER}.DN_MODE", "base"], "DN_MODE is 'base'; the official code fails"),
        ([f"{FORMER}.DN_MODE", "patch"], "DN_MODE is 'patch'; only 'points' or 'shift' or 'scale'"),
        (
            [f"{FORMER}.HEAD_DN", "True"],
            "HEAD_DN is True; not supported: noise is the same for all heads",
        ),
        ([f"{FORMER}.DN_NO_LB", "True"], "DN_NO_LB is True; not supported: the MP part"),
        ([f"{FORMER}.DN_MODE", "shift", "MODEL.DN.NOISE_SCALE", "0.0"], "NOISE_SCALE is 0.0"),
        (["MODEL.DN.NOISE_SCALE", "2.0"], r"pilot\.noise_ratio = 2\.0"),
    ],
)
def test_unsupported_settings_of_the_mp_part(coco: Path, changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(coco, [*PILOTED, *changes])


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("MODEL.META_ARCHITECTURE", "VideoMaskFormer", "video models are not"),
        ("MODEL.META_ARCHITECTURE", "PanopticFPN", "only 'MaskFormer'"),
        ("MODEL.BACKBONE.NAME", "build_resnet_deeplab_backbone", "only 'build_resnet_backbone' or"),
        ("MODEL.BACKBONE.FREEZE_AT", "2", "only 0"),
        ("MODEL.RESNETS.STRIDE_IN_1X1", "True", "only False"),
        ("MODEL.RESNETS.NORM", "GN", "only 'FrozenBN' or 'SyncBN' or 'BN'"),
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", "128", "only 256"),
        ("MODEL.RESNETS.DEPTH", "101", "give weights of the backbone, resnet101"),
        ("MODEL.WEIGHTS", "detectron2://COCO/other.pkl", "downloads are not supported"),
        ("MODEL.SEM_SEG_HEAD.NAME", "PerPixelBaselineHead", "only 'MaskFormerHead'"),
        ("MODEL.SEM_SEG_HEAD.CONVS_DIM", "128", "only 256"),
        (f"{FORMER}.DROPOUT", "0.1", "only 0.0"),
        (f"{FORMER}.DEEP_SUPERVISION", "False", "only True"),
        (f"{FORMER}.DEC_LAYERS", "1", "at least 2"),
        (f"{FORMER}.TRANSFORMER_DECODER_NAME", "StandardTransformerDecoder", "only 'MultiScale"),
        (f"{FORMER}.SIZE_DIVISIBILITY", "0", "only 32"),
        ("INPUT.FORMAT", "BGR", "only 'RGB'"),
        ("INPUT.RANDOM_FLIP", "vertical", "only 'horizontal' or 'none'"),
        ("INPUT.DATASET_MAPPER_NAME", "ytvis", "only 'coco_instance_lsj' or"),
        ("DATASETS.TRAIN", "('a', 'b')", "only one training set"),
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "only 'TrainingSampler'"),
        ("SOLVER.OPTIMIZER", "SGD", "only 'ADAMW'"),
        ("SOLVER.WEIGHT_DECAY_NORM", "0.05", "only 0.0"),
        ("SOLVER.WEIGHT_DECAY_EMBED", "0.05", "only 0.0"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value", "only 'full_model'"),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "only 'WarmupMultiStepLR' or"),
        ("SOLVER.BASE_LR", "fast", "give one as 0.001"),
        ("SOLVER.MAX_ITER", "1e5", "give one as 40000"),
        ("SOLVER.MAX_ITER", "True", "give one as 40000"),
        ("SOLVER.STEPS", "5", r"give one as \(30000,\)"),
    ],
)
def test_unsupported_values(coco: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.yaml: (MODEL\.)?\S* is .*{message}") as caught:
        load_recipe(coco, [key, value])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("INPUT.CROP.TYPE", "relative", "only 'absolute'"),
        ("INPUT.SIZE_DIVISIBILITY", "512", r"only the side of INPUT\.CROP\.SIZE, \(640, 640\)"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "two sides"),
        ("SOLVER.POLY_LR_CONSTANT_ENDING", "0.1", "only 0.0"),
    ],
)
def test_unsupported_values_of_other_mappers(
    ade20k: Path, key: str, value: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(ade20k, [key, value])


def test_code_in_a_file_is_refused(ade20k: Path) -> None:
    base = ade20k.with_name("ade20k.yaml")
    base.write_text(base.read_text().replace("int(x * 0.1 * 640)", "print(x)"))
    with pytest.raises(ConfigError, match=r"INPUT\.MIN_SIZE_TRAIN has a tag that would run code"):
        load_recipe(ade20k)
    assert load_recipe(ade20k, ["INPUT.MIN_SIZE_TRAIN", "(64, 96)"]).data.augment.short_sides == (
        64, 96
    )  # fmt: skip


def test_missing_keys_have_the_defaults_of_detectron2(coco: Path) -> None:
    content = yaml.safe_load(coco.read_text())
    former = content["MODEL"]["MASK_FORMER"]
    del former["CLASS_WEIGHT"], former["MASK_WEIGHT"], former["DICE_WEIGHT"], former["DEC_LAYERS"]
    coco.write_text(yaml.safe_dump(content))
    config = load_recipe(coco)
    assert config.model.decoder_layers == 5
    loss = config.loss
    assert (loss.class_weight, loss.mask_weight, loss.dice_weight) == (1.0, 20.0, 1.0)
    del former["DROPOUT"]
    coco.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"DROPOUT is 0\.1 by default; only 0\.0"):
        load_recipe(coco)


def test_a_base_is_refused(coco: Path) -> None:
    with pytest.raises(ConfigError, match="only a base"):
        load_recipe(coco.with_name("coco.yaml"))


def test_learning_rate_equals_detectron2s(coco: Path) -> None:
    """fvcore's MultiStepParamScheduler: gamma, to the power of milestones at or before it."""
    steps = (3, 5, 8)
    changes = ["SOLVER.MAX_ITER", "10", "SOLVER.STEPS", str(steps), "SOLVER.GAMMA", "0.5"]
    schedule = load_recipe(coco, changes).schedule
    assert [lr_factor(step, schedule) for step in range(10)] == [
        0.5 ** bisect.bisect_right(steps, step) for step in range(10)
    ]
    instant = load_recipe(coco, ["SOLVER.INSTANT_DROP", "True", "SOLVER.DROP_EP", "1000"])
    assert instant.schedule.milestones == (1000, 16000)


def test_warm_up_and_clipping(coco: Path) -> None:
    assert load_recipe(coco).schedule.warmup_iterations == 0
    recipe = read_recipe(coco, ["SOLVER.WARMUP_FACTOR", "0.001", "SOLVER.WARMUP_ITERS", "20"])
    assert recipe.config.schedule.warmup_iterations == 20
    assert "at 1/20, not at 0.001" in notes(recipe)
    clip = ["SOLVER.CLIP_GRADIENTS.ENABLED", "False"]
    assert math.isinf(load_recipe(coco, clip).optimizer.clip_norm)


def test_evaluation(coco: Path) -> None:
    """Period 0 evaluates once, at the end; without test data there is no evaluation."""
    last = load_recipe(coco, ["TEST.EVAL_PERIOD", "0", "SOLVER.MAX_ITER", "70"])
    assert last.evaluate_every == 70
    never = load_recipe(coco, ["DATASETS.TEST", "()"])
    assert never.evaluate_every is None and never.layer_metrics_every is None


def test_other_data_sets(coco: Path) -> None:
    changes = ["DATASETS.TRAIN", "('my_train',)", "DATASETS.TEST", "('coco_2017_val', 'other')"]
    recipe = read_recipe(coco, changes)
    data = recipe.config.data
    assert (data.dataset, data.val_dataset, data.val_split) == ("my_train", "coco", "val")
    assert "set data.dataset=FILE.json" in notes(recipe) and "only the first" in notes(recipe)
    data = load_recipe(coco, [*changes, "data.dataset=mine.json"]).data
    assert data.dataset == "mine.json"


def test_backbones(coco: Path) -> None:
    thin = [
        "MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32",
        "MODEL.RESNETS.STEM_OUT_CHANNELS", "16", "MODEL.RESNETS.NORM", "BN", "MODEL.WEIGHTS", "",
    ]  # fmt: skip
    recipe = read_recipe(coco, thin)
    backbone = recipe.config.model.backbone
    assert (backbone.name, backbone.channels, backbone.stem_channels, backbone.norm) == (
        "resnet50", (8, 16, 32, 64), 16, "batch"
    )  # fmt: skip
    assert not backbone.pretrained and "synchronized" in notes(recipe)
    config = load_recipe(coco, ["MODEL.WEIGHTS", "/data/R-50.pkl"])
    assert config.init == "/data/R-50.pkl" and not config.model.backbone.pretrained
    coco.with_name("swin.yaml").write_text(SWIN)
    odd = load_recipe(
        coco.with_name("swin.yaml"), ["MODEL.SWIN.WINDOW_SIZE", "7", "MODEL.WEIGHTS", ""]
    )
    backbone = odd.model.backbone
    assert (backbone.name, backbone.embed_dim, backbone.window_size) == ("swin", 192, 7)


@pytest.mark.parametrize(
    "changes, note",
    [
        (["TEST.AUG.ENABLED", "True"], "TEST.AUG.ENABLED: not supported"),
        (["TEST.DETECTIONS_PER_IMAGE", "10"], "uses 100 detections"),
        (["SEED", "7"], "random numbers differ"),
        (["INPUT.SIZE_DIVISIBILITY", "-1"], "smaller than the crop (640, 640)"),
        ([f"{FORMER}.TEST.OVERLAP_THRESHOLD", "0.5"], "OVERLAP_THRESHOLD: PQ uses 0.8"),
        ([f"{FORMER}.TEST.INSTANCE_ON", "True"], "evaluated by PQ only"),
        (["INPUT.DATASET_MAPPER_NAME", "mask_former_semantic"], "uses its semantic annotations"),
        (["DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"], "are always left out"),
        ([*PILOTED, f"{FORMER}.DN_MODE", "scale"], "inverts it from the second layer"),
        ([*PILOTED, f"{FORMER}.DN_MODE", "shift", f"{FORMER}.LB_NOISE_RATIO", "-1"], "embeddings"),
    ],
)
def test_differences_are_noted(ade20k: Path, changes: list[str], note: str) -> None:
    assert note not in notes(read_recipe(ade20k))
    assert note in notes(read_recipe(ade20k, changes))


def test_a_range_of_sizes(ade20k: Path) -> None:
    changes = ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", "(640, 643)"]
    assert load_recipe(ade20k, changes).data.augment.short_sides == (640, 641, 642, 643)


def test_unknown_keys_are_listed_in_a_file_and_refused_on_the_command_line(coco: Path) -> None:
    coco.write_text(coco.read_text() + "    MY_OWN: 3\n")
    recipe = read_recipe(coco)
    assert recipe.translation is not None
    assert recipe.translation.unknown == (f"{FORMER}.MY_OWN",)
    assert f"# {FORMER}.MY_OWN: unknown, ignored" in recipe_text(recipe)
    with pytest.raises(ConfigError, match=r"SOLVER\.STEP: .*did you mean SOLVER\.STEPS\?"):
        load_recipe(coco, ["SOLVER.STEP", "(1,)"])
    with pytest.raises(ConfigError, match=r"SOLVER\.STEPS: has no value"):
        load_recipe(coco, ["SOLVER.STEPS"])
    with pytest.raises(ConfigError, match="'fast': not an override; after a detectron2 YAML"):
        load_recipe(coco, ["fast", "True"])


def test_overrides_of_both_kinds(coco: Path) -> None:
    changes = ["seed=3", "SOLVER.MAX_ITER", "9", "SOLVER.BASE_LR=3e-4", "data.root=/a=b"]
    config = load_recipe(coco, changes)
    assert (config.seed, config.schedule.iterations) == (3, 9)
    assert config.optimizer.learning_rate == 3e-4 and config.data.root == Path("/a=b")


def test_recipe_text_is_an_equivalent_recipe(ade20k: Path, tmp_path: Path) -> None:
    recipe = read_recipe(ade20k, [*PILOTED, "SOLVER.CLIP_GRADIENTS.ENABLED", "False"])
    (tmp_path / "ours.yaml").write_text(recipe_text(recipe))
    assert load_recipe(tmp_path / "ours.yaml") == recipe.config


def test_a_translated_run_trains(coco: Path, tmp_path: Path, data_root: Path) -> None:
    """One step; the checkpoint has the settings of the YAML."""
    small = [
        "MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32",
        "MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.WEIGHTS", "", f"{FORMER}.HIDDEN_DIM", "32",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.MASK_DIM", "32",
        "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1", f"{FORMER}.DEC_LAYERS", "3",
        f"{FORMER}.NUM_OBJECT_QUERIES", "8", f"{FORMER}.TRAIN_NUM_POINTS", "100",
        f"{FORMER}.DIM_FEEDFORWARD", "32",
        "INPUT.IMAGE_SIZE", "64", "INPUT.MIN_SIZE_TEST", "0", "SOLVER.MAX_ITER", "1",
        "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", "DATASETS.TEST", "()",
        "SOLVER.AMP.ENABLED", "False", *PILOTED, "MODEL.DN.NUM_DN", "2", f"{FORMER}.NHEADS", "4",
    ]  # fmt: skip
    config = load_recipe(coco, [*small, "data.dataset=synthetic", f"data.root={data_root}"])
    final = train(config, tmp_path / "run", console=Console(quiet=True))
    loaded = load_checkpoint(final)
    assert loaded.recipe is not None and loaded.recipe.pilot.num_groups == 2
    assert loaded.model.config.decoder_layers == 2 and loaded.model.config.num_heads == 4
    assert loaded.model.config.label_embedding and not loaded.model.config.query_position
