"""Tests with detectron2 and the official models; skipped if these cannot be imported.

Both official repositories name their package `mask2former`, so one process can test only one.
"""

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.matching import Target

INSTALL = "to install it, see docs/detectron2.md"
FAMILIES = {"mask2former": "Mask2Former", "mpformer": "MP-Former"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore warnings of these libraries."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for kind in ("FutureWarning", "DeprecationWarning", "UserWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{kind}"))


def _import(name: str, what: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{what} can't be imported ({error}); {INSTALL}")


@pytest.fixture(scope="session", autouse=True)
def detectron2() -> ModuleType:
    return _import("detectron2", "detectron2")


@pytest.fixture(scope="session")
def package(detectron2: ModuleType) -> ModuleType:
    """The package of one of the official repositories."""
    return _import("mask2former", "the official Mask2Former or MP-Former")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, package: ModuleType) -> str:
    """Each family in turn; skipped if the package is that of the other repository."""
    decoders = importlib.import_module("mask2former.modeling.transformer_decoder")
    folder = importlib.import_module(f"{decoders.__name__}.mask2former_transformer_decoder")
    found = "mpformer" if hasattr(folder, "MultiScaleMaskedTransformerDecoderMaskDN") else None
    if (request.param == "mpformer") != (found == "mpformer"):
        pytest.skip(f"the package mask2former is not that of {FAMILIES[request.param]}")
    return str(request.param)


@pytest.fixture
def official_config(family: str, package: ModuleType) -> Any:
    """A CfgNode of a small model of the family, built as in its repository's scripts."""
    config = importlib.import_module("detectron2.config").get_cfg()
    importlib.import_module("detectron2.projects.deeplab").add_deeplab_config(config)
    package.add_maskformer2_config(config)  # type: ignore[attr-defined]
    former, head, resnet = config.MODEL.MASK_FORMER, config.MODEL.SEM_SEG_HEAD, config.MODEL.RESNETS
    config.MODEL.DEVICE = "cpu"
    config.MODEL.META_ARCHITECTURE = "MaskFormer"
    config.MODEL.PIXEL_MEAN, config.MODEL.PIXEL_STD = (
        [123.675, 116.280, 103.530],
        [58.395, 57.120, 57.375],
    )
    config.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    resnet.DEPTH, resnet.WIDTH_PER_GROUP, resnet.RES2_OUT_CHANNELS = 50, 8, 32
    resnet.STEM_OUT_CHANNELS, resnet.STEM_TYPE, resnet.STRIDE_IN_1X1 = 16, "basic", False
    resnet.OUT_FEATURES = head.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    head.NAME, head.PIXEL_DECODER_NAME = "MaskFormerHead", "MSDeformAttnPixelDecoder"
    head.NUM_CLASSES, head.CONVS_DIM, head.MASK_DIM, head.NORM = 3, 32, 16, "GN"
    head.TRANSFORMER_ENC_LAYERS = 1
    former.TRANSFORMER_IN_FEATURE = "multi_scale_pixel_decoder"
    former.HIDDEN_DIM, former.DIM_FEEDFORWARD, former.DROPOUT = 32, 32, 0.0
    former.DEC_LAYERS, former.NUM_OBJECT_QUERIES, former.TRAIN_NUM_POINTS = 5, 6, 64
    former.CLASS_WEIGHT, former.MASK_WEIGHT, former.DICE_WEIGHT = 2.0, 5.0, 5.0
    former.TEST.INSTANCE_ON = True
    config.TEST.DETECTIONS_PER_IMAGE = 5
    config.DATASETS.TRAIN = ("mpdiag_test_nothing",)
    if family == "mpformer":
        former.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoderMaskDN"
        former.DN_MODE, former.ALL_LY_DN, former.LB_NOISE_RATIO = "points", True, 0.2
        config.MODEL.DN.NUM_DN = 2
    return config


@pytest.fixture
def our_config(family: str) -> ModelConfig:
    """The configuration of the same model in mpdiag."""
    piloted = family == "mpformer"
    return ModelConfig(
        num_classes=3,
        backbone=BackboneConfig(name="resnet50", channels=(8, 16, 32, 64), stem_channels=16),
        hidden_dim=32,
        mask_dim=16,
        num_heads=8,
        encoder_layers=1,
        decoder_layers=4,
        feedforward_dim=32,
        num_queries=6,
        query_position=not piloted,
        label_embedding=piloted,
    )


@pytest.fixture
def build_official(official_config: Any) -> Callable[[], nn.Module]:
    """Return a function that builds the official model with random weights."""

    def build(seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        model: nn.Module = importlib.import_module("detectron2.modeling").build_model(
            official_config
        )
        return model

    return build


@pytest.fixture
def targets() -> list[Target]:
    """Two objects in the first image, three in the second, of 64 x 64 pixels."""
    masks = torch.zeros(5, 64, 64, dtype=torch.bool)
    masks[0, 4:30, 4:30] = True
    masks[1, 40:60, 20:60] = True
    masks[2, 0:10, 0:10] = True
    masks[3, 20:50, 30:58] = True
    masks[4, 45:50, 7:12] = True
    return [
        Target(labels=torch.tensor([0, 2]), masks=masks[:2]),
        Target(labels=torch.tensor([1, 1, 0]), masks=masks[2:]),
    ]


@pytest.fixture
def inputs(targets: list[Target], detectron2: ModuleType) -> list[dict[str, Any]]:
    """Inputs of a model from detectron2's loaders: images with `Instances`."""
    structures = importlib.import_module("detectron2.structures")
    generator = torch.Generator().manual_seed(1)
    found = []
    for target in targets:
        instances = structures.Instances((64, 64))
        instances.gt_classes = target["labels"]
        instances.gt_masks = target["masks"]
        instances.gt_boxes = structures.BitMasks(target["masks"]).get_bounding_boxes()
        image = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        found.append({"image": image, "instances": instances, "height": 64, "width": 64})
    return found
