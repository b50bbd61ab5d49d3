"""Keys of detectron2 that affect a training of Mask2Former or MP-Former, with their defaults.

`detectron2/config/defaults.py` and `projects/DeepLab/deeplab/config.py` in
facebookresearch/detectron2; `mask2former/config.py` in facebookresearch/Mask2Former and
IDEA-Research/MP-Former.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from mpdiag.checkpoints.detectron2_yaml import (
    MISSING,
    TaggedValue,
    Values,
    dotted_keys,
    get,
)
from mpdiag.config import abbreviate
from mpdiag.errors import ConfigError

_STAGES = ("res2", "res3", "res4", "res5")
DEFAULTS: dict[str, Any] = {
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "DATALOADER.NUM_WORKERS": 4,
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "DATASETS.TEST": (),
    "DATASETS.TRAIN": (),
    "INPUT.COLOR_AUG_SSD": False,
    "INPUT.CROP.ENABLED": False,
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 1.0,
    "INPUT.CROP.SIZE": (0.9, 0.9),
    "INPUT.CROP.TYPE": "relative_range",
    "INPUT.DATASET_MAPPER_NAME": "mask_former_semantic",
    "INPUT.FORMAT": "BGR",
    "INPUT.IMAGE_SIZE": 1024,
    "INPUT.MAX_SCALE": 2.0,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SCALE": 0.1,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MIN_SIZE_TRAIN": (800,),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.RANDOM_FLIP": "horizontal",
    "INPUT.SIZE_DIVISIBILITY": -1,
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.DN.NOISE_SCALE": 0.2,
    "MODEL.DN.NUM_DN": 5,
    "MODEL.MASK_FORMER.ALL_LY_DN": False,
    "MODEL.MASK_FORMER.CLASS_WEIGHT": 1.0,
    "MODEL.MASK_FORMER.DEC_LAYERS": 6,
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": True,
    "MODEL.MASK_FORMER.DICE_WEIGHT": 1.0,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 2048,
    "MODEL.MASK_FORMER.DN_MODE": "base",
    "MODEL.MASK_FORMER.DN_NO_LB": False,
    "MODEL.MASK_FORMER.DN_RATIO": 0.5,
    "MODEL.MASK_FORMER.DROPOUT": 0.1,
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": False,
    "MODEL.MASK_FORMER.HEAD_DN": False,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 256,
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": 0.75,
    "MODEL.MASK_FORMER.LB_NOISE_RATIO": -1.0,
    "MODEL.MASK_FORMER.MASK_WEIGHT": 20.0,
    "MODEL.MASK_FORMER.NHEADS": 8,
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.1,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 100,
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": 3.0,
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": 32,
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON": False,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.0,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.0,
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": True,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 112 * 112,
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "res5",
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.PIXEL_MEAN": (103.530, 116.280, 123.675),
    "MODEL.PIXEL_STD": (1.0, 1.0, 1.0),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": (False, False, False, False),
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.OUT_FEATURES": ("res4",),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 128,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": _STAGES[1:],
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ("p2", "p3", "p4", "p5"),
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 256,
    "MODEL.SEM_SEG_HEAD.NAME": "SemSegFPNHead",
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 54,
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "BasePixelDecoder",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 0,
    "MODEL.SWIN.APE": False,
    "MODEL.SWIN.ATTN_DROP_RATE": 0.0,
    "MODEL.SWIN.DEPTHS": (2, 2, 6, 2),
    "MODEL.SWIN.DROP_PATH_RATE": 0.3,
    "MODEL.SWIN.DROP_RATE": 0.0,
    "MODEL.SWIN.EMBED_DIM": 96,
    "MODEL.SWIN.MLP_RATIO": 4.0,
    "MODEL.SWIN.NUM_HEADS": (3, 6, 12, 24),
    "MODEL.SWIN.OUT_FEATURES": _STAGES,
    "MODEL.SWIN.PATCH_NORM": True,
    "MODEL.SWIN.PATCH_SIZE": 4,
    "MODEL.SWIN.QKV_BIAS": True,
    "MODEL.SWIN.QK_SCALE": None,
    "MODEL.SWIN.WINDOW_SIZE": 7,
    "MODEL.WEIGHTS": "",
    "MPDIAG.SETTINGS": (),
    "SEED": -1,
    "SOLVER.AMP.ENABLED": False,
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.CHECKPOINT_PERIOD": 5000,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1.0,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "SOLVER.DROP_EP": 0,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.INSTANT_DROP": False,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.MAX_ITER": 40000,
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.POLY_LR_CONSTANT_ENDING": 0.0,
    "SOLVER.POLY_LR_POWER": 0.9,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "SOLVER.STEPS": (30000,),
    "SOLVER.WARMUP_FACTOR": 1.0 / 1000,
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.WEIGHT_DECAY": 0.0001,
    "SOLVER.WEIGHT_DECAY_EMBED": 0.0,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "TEST.AUG.ENABLED": False,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "TEST.EVAL_PERIOD": 0,
    "TEST.PRECISE_BN.ENABLED": False,
}
# Keys, and groups of keys, without effect on this training: they configure other models or the
# machine, or these repositories do not read them for this model.
UNREAD = (
    "CUDNN_BENCHMARK", "DATALOADER.ASPECT_RATIO_GROUPING", "DATALOADER.REPEAT_SQRT",
    "DATALOADER.REPEAT_THRESHOLD", "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN", "DATASETS.PROPOSAL_FILES_TEST",
    "DATASETS.PROPOSAL_FILES_TRAIN", "FLOAT32_PRECISION", "GLOBAL", "INPUT.MASK_FORMAT",
    "MODEL.ANCHOR_GENERATOR", "MODEL.DEVICE", "MODEL.FPN", "MODEL.KEYPOINT_ON",
    "MODEL.LOAD_PROPOSALS", "MODEL.MASK_FORMER.ENC_LAYERS", "MODEL.MASK_FORMER.LAST_Q_RATIO",
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON",
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE", "MODEL.MASK_ON",
    "MODEL.PANOPTIC_FPN", "MODEL.PROPOSAL_GENERATOR", "MODEL.RESNETS.DEFORM_MODULATED",
    "MODEL.RESNETS.DEFORM_NUM_GROUPS", "MODEL.RESNETS.RES4_DILATION",
    "MODEL.RESNETS.RES5_MULTI_GRID", "MODEL.RESNETS.STEM_TYPE", "MODEL.RETINANET",
    "MODEL.ROI_BOX_CASCADE_HEAD", "MODEL.ROI_BOX_HEAD", "MODEL.ROI_HEADS",
    "MODEL.ROI_KEYPOINT_HEAD", "MODEL.ROI_MASK_HEAD", "MODEL.RPN",
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS",
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT",
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS",
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS",
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "MODEL.SEM_SEG_HEAD.LOSS_TYPE",
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS",
    "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES", "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV",
    "MODEL.SWIN.PRETRAIN_IMG_SIZE", "MODEL.SWIN.USE_CHECKPOINT", "MPDIAG.IMPORTS", "OUTPUT_DIR",
    "SOLVER.BASE_LR_END", "SOLVER.BIAS_LR_FACTOR", "SOLVER.CLIP_GRADIENTS.NORM_TYPE",
    "SOLVER.MOMENTUM", "SOLVER.NESTEROV", "SOLVER.NUM_DECAYS", "SOLVER.RESCALE_INTERVAL",
    "SOLVER.WEIGHT_DECAY_BIAS", "TEST.AUG.FLIP", "TEST.AUG.MAX_SIZE", "TEST.AUG.MIN_SIZES",
    "TEST.EXPECTED_RESULTS", "TEST.KEYPOINT_OKS_SIGMAS", "TEST.PRECISE_BN.NUM_ITER", "VERSION",
    "VIS_PERIOD",
)  # fmt: skip


def is_known(key: str) -> bool:
    """Return whether detectron2 or one of the two repositories has the key."""
    return key in DEFAULTS or any(key == name or key.startswith(f"{name}.") for name in UNREAD)


def check_known(keys: Mapping[str, Any]) -> None:
    """Refuse unknown keys of the command line, as detectron2 does.

    Raises:
        ConfigError: names the first unknown key and the most similar known one.
    """
    for key in keys:
        if not is_known(key):
            close = get_close_matches(key, [*DEFAULTS, *UNREAD], n=1)
            hint = f"did you mean {close[0]}?" if close else "see docs/detectron2.md"
            raise ConfigError(f"{key}: not a key of detectron2 or Mask2Former; {hint}")


@dataclass(slots=True)
class Detectron2Settings:
    """Values of a configuration by dotted key, with defaults, checked for their type.

    Attributes:
        values: contents of the YAML file.
        source: name of the configuration in errors.
        notes: differences to detectron2, collected during the translation.
    """

    values: Values
    source: str
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, key: str) -> Any:
        """Return a value; sequences are tuples.

        Raises:
            ConfigError: its type is not that of the default.
        """
        default, value = DEFAULTS[key], get(self.values, key)
        if value is MISSING:
            return default
        if isinstance(value, TaggedValue):
            raise ConfigError(
                f"{self.source}: {key} has a tag that would run code; write the value itself"
            )
        if isinstance(value, list | tuple):
            value = tuple(value)
        kind = type(default)
        fits = isinstance(value, int | float if kind is float else kind)
        if isinstance(value, bool) and kind is not bool:
            fits = False
        if default is not None and not fits:
            raise self.error(key, f"give one as {abbreviate(default)}")
        return float(value) if kind is float else value

    def is_set(self, key: str) -> bool:
        """Return whether the configuration sets the key."""
        return get(self.values, key) is not MISSING

    def unknown(self) -> list[str]:
        """Return the keys that neither detectron2 nor the two repositories have."""
        return sorted(key for key in dotted_keys(self.values) if not is_known(key))

    def require(self, key: str, *allowed: Any) -> None:
        """Raise ConfigError unless the value is one of `allowed`."""
        if self[key] not in allowed:
            only = " or ".join(abbreviate(value) for value in allowed)
            raise self.error(key, f"only {only} is supported")

    def error(self, key: str, fix: str) -> ConfigError:
        """Return an error that names file, key, value and fix."""
        found = get(self.values, key)
        value = f"{abbreviate(DEFAULTS[key])} by default" if found is MISSING else abbreviate(found)
        return ConfigError(f"{self.source}: {key} is {value}; {fix}")
