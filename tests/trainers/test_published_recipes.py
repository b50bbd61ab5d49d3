"""Packaged recipes against the official configurations.

Source: `configs/` of facebookresearch/Mask2Former and IDEA-Research/MP-Former; the text of the
paper for runs without a file.
"""

import functools
from dataclasses import dataclass

import pytest
import torch

from mpdiag.config import ModelConfig, TrainConfig
from mpdiag.data import KNOWN_DATASETS
from mpdiag.models import Mask2Former
from trainers.methods import methods_of
from trainers.recipe import load_recipe, recipe_names

PUBLISHED = [name for name in recipe_names() if not name.startswith(("synthetic", "photos"))]


@dataclass(frozen=True)
class Run:
    """MAX_ITER; STEPS, or None for WarmupPolyLR; NUM_OBJECT_QUERIES; sizes."""

    iterations: int
    milestones: tuple[int, int] | None
    queries: int
    crop: tuple[int, int]
    test: tuple[int, int]
    train: tuple[int, int, int] | None  # MIN_SIZE_TRAIN from and to, MAX_SIZE_TRAIN; None: LSJ


COCO = ((1024, 1024), (800, 1333), None)
ADE640 = ((640, 640), (640, 2560), (320, 1280, 2560))
ADE512 = ((512, 512), (512, 2048), (256, 1024, 2048))
CITY = ((512, 1024), (1024, 2048), (512, 2048, 4096))
EP50, EP36, EP12 = (368750, (327778, 355092)), (265500, (245000, 260000)), (88500, (73750, 81125))

RUNS = {
    "table2-mask2former-r50-panoptic": Run(160000, None, 100, *ADE640),
    "table2-mask2former-r50-instance": Run(160000, None, 100, *ADE640),
    "table2-mask2former-r50-semantic": Run(160000, None, 100, *ADE512),
    "table2-mask2former-swin-l-panoptic": Run(160000, None, 200, *ADE640),
    "table2-mask2former-swin-l-instance": Run(160000, None, 200, *ADE640),
    "table2-mask2former-swin-l-semantic": Run(160000, None, 100, *ADE640),
    "table2-mp-former-r50-panoptic": Run(160000, (135000, 150000), 100, *ADE640),
    "table2-mp-former-r50-instance": Run(160000, (135000, 150000), 100, *ADE640),
    "table2-mp-former-r50-semantic": Run(160000, (135000, 150000), 100, *ADE512),
    "table2-mp-former-swin-l-panoptic": Run(160000, (135000, 150000), 200, *ADE640),
    "table2-mp-former-swin-l-instance": Run(160000, (135000, 150000), 200, *ADE640),
    "table2-mp-former-swin-l-semantic": Run(160000, (135000, 150000), 100, *ADE640),
    "table3-mp-former-r50-80k-semantic": Run(80000, (67500, 75000), 100, *ADE512),
    "table3-mp-former-swin-l-80k-panoptic": Run(80000, (67500, 75000), 200, *ADE640),
    "table3-mask2former-r50-coco-panoptic": Run(*EP50, 100, *COCO),
    "table3-mask2former-r101-coco-instance": Run(*EP50, 100, *COCO),
    "table3-mp-former-r50-coco-panoptic": Run(*EP36, 100, *COCO),
    "table3-mp-former-r101-coco-instance": Run(*EP36, 100, *COCO),
    "table4-1-mask2former": Run(*EP12, 100, *COCO),
    "table4-5-all-layers": Run(*EP12, 100, *COCO),
    "table4-5-all-layers-50ep": Run(*EP50, 100, *COCO),
    "table7-fixed-matching": Run(*EP12, 100, *COCO),
    "cityscapes-mask2former-r50-panoptic": Run(90000, None, 100, *CITY),
    "cityscapes-mask2former-swin-l-instance": Run(90000, None, 200, *CITY),
    "cityscapes-mask2former-swin-l-semantic": Run(90000, None, 100, *CITY),
    "cityscapes-mp-former-r50-instance": Run(90000, (80000, 85000), 100, *CITY),
    "cityscapes-mp-former-swin-l-semantic": Run(90000, (80000, 85000), 100, *CITY),
    "coco-mask2former-swin-l-instance": Run(737500, (655556, 710184), 200, *COCO),
    "coco-mp-former-swin-l-instance": Run(72 * 7375, (472000, 511332), 200, *COCO),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_the_official_one(name: str) -> None:
    run, config = RUNS[name], load_recipe(name)
    schedule, data, augment = config.schedule, config.data, config.data.augment
    milestones = schedule.milestones if schedule.policy == "multistep" else None
    assert (schedule.iterations, milestones) == (run.iterations, run.milestones)
    assert config.model.num_queries == run.queries
    assert augment.crop == run.crop
    assert (data.short_side, data.long_side) == run.test
    if run.train is None:
        assert augment.scale_jitter == (0.1, 2.0) and augment.short_sides is None
        assert not augment.color
    else:
        smallest, largest, longest = run.train
        sides = augment.short_sides
        assert sides == tuple(int(x * 0.1 * largest / 2) for x in range(5, 21))  # as written there
        assert (min(sides), max(sides), augment.long_side) == (smallest, largest, longest)
        assert augment.scale_jitter is None and augment.color
    assert data.dataset == ("coco" if run.train is None else data.dataset)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_all_runs_share(name: str) -> None:
    config = load_recipe(name)
    assert config.data.batch_size == 16
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.weight_decay) == (1e-4, 0.05)
    assert (optimizer.backbone_lr_multiplier, optimizer.clip_norm) == (0.1, 0.01)
    assert config.schedule.gammas == (0.1, 0.1) and config.schedule.power == 0.9
    assert config.schedule.warmup_iterations == 0  # WARMUP_FACTOR 1.0
    assert config.precision == "bf16" and config.init is None
    assert config.data.augment.flip and config.data.augment.single_category_max_area == 1
    assert config.evaluate_every == 5000
    assert methods_of(config) and config.data.dataset in KNOWN_DATASETS
    backbone = config.model.backbone
    weights = {
        "r50": "resnet50.tv_in1k", "r101": "resnet101.tv_in1k", "swin-l": "swin_large"
    }  # fmt: skip
    (expected,) = {weights[key] for key in weights if f"-{key}" in name} or {weights["r50"]}
    assert backbone.pretrained and backbone.name == expected
    assert (backbone.norm == "batch") == (config.data.dataset == "cityscapes")
    parts = set(name.split("-"))
    assert config.data.task in parts or name.startswith(
        ("table4", "table5", "table6", "table7", "a")
    )


MP = {
    "table4-2-mp": (3, "none", 0.0),
    "table4-3-label-noise": (3, "none", 0.2),
    "table4-4-point-noise": (3, "point", 0.2),
    "table4-5-all-layers": ("all", "point", 0.2),
    "table4-2-mp-50ep": (3, "none", 0.0),
    "table4-3-label-noise-50ep": (3, "none", 0.2),
    "table4-4-point-noise-50ep": (3, "point", 0.2),
    "table4-5-all-layers-50ep": ("all", "point", 0.2),
    "table5-first-layer": (1, "none", 0.2),
    "table5-shift-noise": (3, "shift", 0.2),
    "table5-scale-noise": (3, "scale", 0.2),
    "table6-match": (3, "none", 0.2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_mask_piloting(name: str) -> None:
    config = load_recipe(name)
    if "mask2former" in name or name.startswith("table7"):
        methods = {
            "table7-fixed-matching": "fixed-matching",
            "table7-auxiliary-loss": "auxiliary-loss",
        }
        assert config.method == methods.get(name, "baseline") and config.model.query_position
        return
    pilot = config.pilot
    assert config.method == "piloted" and not config.model.query_position
    assert (pilot.layers, pilot.noise, pilot.label_noise) == MP.get(name, ("all", "point", 0.2))
    assert (pilot.num_queries, pilot.noise_ratio, pilot.variant) == (100, 0.2, "paper")
    assert (pilot.assignment == "match") == (name == "table6-match")
    feeds = {"appendix-d-feature-mean": "feature-mean", "appendix-d-mask-code": "mask-code"}
    assert pilot.query_input == feeds.get(name, "attention-mask")
    large = config.model.feature_maps == "all-large"
    assert large == (name == "table6-all-large")


@functools.cache
def parameters(model: ModelConfig) -> int:
    backbone = model.backbone.model_copy(update={"pretrained": False})
    with torch.device("meta"):
        built = Mask2Former(model.model_copy(update={"backbone": backbone}))
    return sum(parameter.numel() for parameter in built.parameters())


def millions(config: TrainConfig) -> float:
    """Millions of parameters; MP-Former's table of query positions is small."""
    return parameters(config.model) / 1e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_have_as_many_parameters_as_published(name: str) -> None:
    """Mask2Former, Table 1, and MP-Former, Table 7: 44, 63 and 216 million."""
    config = load_recipe(name)
    published = {"resnet50": 44, "resnet101": 63, "swin_large": 216}
    assert millions(config) == pytest.approx(
        published[config.model.backbone.name.split(".")[0]], abs=0.6
    )
