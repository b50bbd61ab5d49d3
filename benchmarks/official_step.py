"""A training step of the official Mask2Former or MP-Former, from a checkout of the user.

detectron2 builds the official model from a configuration set up as in `train_net.py`. The model
starts with the weights of mpdiag's model, loaded strictly.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from mpdiag.checkpoints.saving import official_state_dict
from mpdiag.config import TrainConfig
from mpdiag.data import Sample, padded_targets
from mpdiag.errors import ConfigError, DependencyError
from mpdiag.models import Mask2Former
from mpdiag.models.mask2former import padded_size

DEPTHS = {"resnet50": 50, "resnet101": 101}
FIXED = ("coarse-to-fine", 1024, 4)  # constants of the official code
DECODER_OF_MP = "MultiScaleMaskedTransformerDecoderMaskDN"


class OfficialStep:
    """Forward pass with the official loss, backward pass and AdamW step."""

    def __init__(self, folder: Path, config: TrainConfig, device: torch.device) -> None:
        """Build the official model and its optimizer.

        Args:
            folder: the checkout.
            config: configuration of a trainer, with the number of classes set.
            device: device of the model.

        Raises:
            DependencyError: the checkout or detectron2 cannot be imported.
            ConfigError: the official code does not support the backbone or feature maps.
        """
        package = _package(folder)
        # add_maskformer2_config of MP-Former adds keys that Mask2Former does not have.
        cfg = importlib.import_module("detectron2.config").get_cfg()
        importlib.import_module("detectron2.projects.deeplab").add_deeplab_config(cfg)
        package.add_maskformer2_config(cfg)
        piloted = "DN" in cfg.MODEL
        _set_up(cfg, config, device, piloted)
        kind = config.model.model_copy(
            update={"query_position": not piloted, "label_embedding": piloted}
        )
        self.name = "official MP-Former" if piloted else "official Mask2Former"
        # For num_points="all" the official loss samples as many points as there are cells.
        self.points = None if config.loss.num_points == "all" else config.loss.num_points
        self.clip_norm = config.optimizer.clip_norm
        self.model: nn.Module = importlib.import_module("detectron2.modeling").build_model(cfg)
        state = official_state_dict(Mask2Former(kind), config.loss.no_object_weight)
        self.model.load_state_dict(state)
        self.model.to(device).train()
        self.structures: Any = importlib.import_module("detectron2.structures")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            config.optimizer.learning_rate,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )

    def __call__(self, samples: Sequence[Sample], autocast: torch.autocast) -> None:
        """Take one step; forward pass and losses run under `autocast`, as officially."""
        size = padded_size([sample.size for sample in samples])
        criterion: Any = self.model.criterion
        criterion.num_points = self.points or (size[0] // 4) * (size[1] // 4)
        criterion.matcher.num_points = criterion.num_points
        inputs = []
        for sample, target in zip(samples, padded_targets(samples, size), strict=True):
            height, width = sample.image.shape[-2:]
            instances = self.structures.Instances((height, width))
            instances.gt_classes = target["labels"]
            instances.gt_masks = target["masks"][:, :height, :width]
            masks = self.structures.BitMasks(instances.gt_masks)
            instances.gt_boxes = masks.get_bounding_boxes()  # used by MP-Former
            inputs.append({"image": sample.image, "instances": instances})
        with autocast:
            losses = self.model(inputs)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()


def _package(folder: Path) -> ModuleType:
    """Import the package `mask2former` of the checkout."""
    if not (folder / "mask2former" / "__init__.py").is_file():
        raise DependencyError(
            f"--official {folder}: has no package mask2former; give a checkout of Mask2Former or "
            "MP-Former"
        )
    sys.path.insert(0, str(folder.resolve()))
    try:
        importlib.import_module("detectron2")
        return importlib.import_module("mask2former")
    except ImportError as error:
        raise DependencyError(
            f"--official {folder}: cannot be imported ({error}); it needs detectron2 (see "
            "docs/detectron2.md) and for CUDA its compiled operator"
        ) from None
    finally:
        sys.path.remove(str(folder.resolve()))


def _set_up(cfg: Any, config: TrainConfig, device: torch.device, piloted: bool) -> None:
    """Set the official configuration to the model and losses of a recipe."""
    model, loss, backbone = config.model, config.loss, config.model.backbone
    depth = DEPTHS.get(backbone.name.partition(".")[0])
    fixed = (model.feature_maps, model.encoder_feedforward_dim, model.encoder_points)
    if depth is None or fixed != FIXED:
        raise ConfigError(
            f"model: --official supports {', '.join(DEPTHS)} with feature_maps=coarse-to-fine "
            "encoder_feedforward_dim=1024 encoder_points=4"
        )
    former, head, resnet = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.RESNETS
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = device.type, "MaskFormer"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(model.pixel_mean), list(model.pixel_std)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    width = backbone.channels[0] if backbone.channels else 64
    resnet.DEPTH, resnet.RES2_OUT_CHANNELS, resnet.WIDTH_PER_GROUP = depth, 4 * width, width
    resnet.STEM_OUT_CHANNELS, resnet.STEM_TYPE = backbone.stem_channels, "basic"
    resnet.STRIDE_IN_1X1, resnet.NORM = False, "FrozenBN" if backbone.norm == "frozen" else "BN"
    resnet.OUT_FEATURES = head.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    head.NAME, head.PIXEL_DECODER_NAME = "MaskFormerHead", "MSDeformAttnPixelDecoder"
    head.NUM_CLASSES, head.NORM = model.num_classes, "GN"
    head.CONVS_DIM, head.MASK_DIM = model.hidden_dim, model.mask_dim
    head.TRANSFORMER_ENC_LAYERS = model.encoder_layers
    former.TRANSFORMER_IN_FEATURE = "multi_scale_pixel_decoder"
    former.HIDDEN_DIM, former.NHEADS = model.hidden_dim, model.num_heads
    former.DIM_FEEDFORWARD, former.DROPOUT = model.feedforward_dim, 0.0
    former.DEC_LAYERS, former.NUM_OBJECT_QUERIES = model.decoder_layers + 1, model.num_queries
    former.CLASS_WEIGHT, former.NO_OBJECT_WEIGHT = loss.class_weight, loss.no_object_weight
    former.MASK_WEIGHT, former.DICE_WEIGHT = loss.mask_weight, loss.dice_weight
    cfg.DATASETS.TRAIN = ("mpdiag_bench",)
    if piloted:
        former.TRANSFORMER_DECODER_NAME = DECODER_OF_MP
        former.DN_MODE, former.ALL_LY_DN = "points", config.pilot.layers == "all"
        former.LB_NOISE_RATIO = config.pilot.label_noise
        cfg.MODEL.DN.NUM_DN = config.pilot.num_queries
