"""The section `model`, and `init`.

Source: `from_config` of MaskFormer, its pixel decoder, its transformer decoder and
D2SwinTransformer in facebookresearch/Mask2Former.
"""

from typing import Any

from mpdiag.checkpoints.detectron2_yaml import META_ARCHITECTURES
from mpdiag.errors import ConfigError
from mpdiag.models.swin import PUBLISHED_SWINS, SwinShape
from trainers.detectron2_recipes.keys import Detectron2Settings

_STAGES = ("res2", "res3", "res4", "res5")
# Values that mpdiag's model supports.
_REQUIRED: dict[str, Any] = {
    "INPUT.FORMAT": "RGB",
    "MODEL.MASK_FORMER.DROPOUT": 0.0,
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": False,
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": 32,
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": _STAGES[1:],
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": _STAGES,
    "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead",
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
}
_REQUIRED_OF_SWIN: dict[str, Any] = {
    "MODEL.SWIN.APE": False,
    "MODEL.SWIN.ATTN_DROP_RATE": 0.0,
    "MODEL.SWIN.DROP_RATE": 0.0,
    "MODEL.SWIN.MLP_RATIO": 4.0,
    "MODEL.SWIN.OUT_FEATURES": _STAGES,
    "MODEL.SWIN.PATCH_NORM": True,
    "MODEL.SWIN.PATCH_SIZE": 4,
    "MODEL.SWIN.QKV_BIAS": True,
    "MODEL.SWIN.QK_SCALE": None,
}
_REQUIRED_OF_RESNET: dict[str, Any] = {
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": (False,) * 4,
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.OUT_FEATURES": _STAGES,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}
# MODEL.WEIGHTS of the official configurations, and the backbone whose `pretrained` loads the same
# weights from timm. swin_base_patch4_window12_384.pkl is missing: mpdiag's swin_base starts from
# ImageNet-22K.
_TORCHVISION = "detectron2://ImageNetPretrained/torchvision"
_SAME_AS_TIMM = {
    f"{_TORCHVISION}/R-50.pkl": "resnet50.tv_in1k",
    f"{_TORCHVISION}/R-101.pkl": "resnet101.tv_in1k",
    "R-50.pkl": "resnet50.tv_in1k",
    "R-101.pkl": "resnet101.tv_in1k",
    "swin_tiny_patch4_window7_224.pkl": "swin_tiny",
    "swin_small_patch4_window7_224.pkl": "swin_small",
    "swin_base_patch4_window12_384_22k.pkl": "swin_base",
    "swin_large_patch4_window12_384_22k.pkl": "swin_large",
}


def check_architecture(keys: Detectron2Settings) -> None:
    """Check that the configuration describes a Mask2Former for images.

    Raises:
        ConfigError: it names no model, a video model, or another model.
    """
    key = "MODEL.META_ARCHITECTURE"
    name = keys[key]
    if not keys.is_set(key):
        raise ConfigError(
            f"{keys.source}: sets no MODEL.META_ARCHITECTURE, so it is only a base; give a file "
            "that builds on it"
        )
    if name.startswith("Video"):
        raise keys.error(key, "video models are not supported")
    keys.require(key, *META_ARCHITECTURES)


def model_settings(keys: Detectron2Settings) -> dict[str, Any]:
    """Return `model`, without what the method determines, and `init`."""
    for key, value in _REQUIRED.items():
        keys.require(key, value)
    head, former = "MODEL.SEM_SEG_HEAD", "MODEL.MASK_FORMER"
    keys.require(f"{head}.CONVS_DIM", keys[f"{former}.HIDDEN_DIM"])
    layers = keys[f"{former}.DEC_LAYERS"] - 1  # DEC_LAYERS counts M^0
    if layers < 1:
        raise keys.error(
            f"{former}.DEC_LAYERS", "it counts the prediction of the queries; give at least 2"
        )
    backbone, init = _backbone(keys)
    model = {
        "num_classes": keys[f"{head}.NUM_CLASSES"],
        "backbone": backbone,
        "hidden_dim": keys[f"{former}.HIDDEN_DIM"],
        "mask_dim": keys[f"{head}.MASK_DIM"],
        "num_heads": keys[f"{former}.NHEADS"],
        "encoder_layers": keys[f"{head}.TRANSFORMER_ENC_LAYERS"],
        "decoder_layers": layers,
        "feedforward_dim": keys[f"{former}.DIM_FEEDFORWARD"],
        "num_queries": keys[f"{former}.NUM_OBJECT_QUERIES"],
        "pixel_mean": keys["MODEL.PIXEL_MEAN"],
        "pixel_std": keys["MODEL.PIXEL_STD"],
    }
    return {"model": model} | ({"init": init} if init else {})


def _backbone(keys: Detectron2Settings) -> tuple[dict[str, Any], str | None]:
    """Return the backbone, and the file of initial weights."""
    key = "MODEL.BACKBONE.NAME"
    keys.require(key, "build_resnet_backbone", "D2SwinTransformer")
    backbone = _swin(keys) if keys[key] == "D2SwinTransformer" else _resnet(keys)
    weights = keys["MODEL.WEIGHTS"]
    if not weights:
        return backbone, None
    same = _SAME_AS_TIMM.get(weights)
    if same is None:
        if "://" in weights:
            raise keys.error(
                "MODEL.WEIGHTS", "downloads are not supported; give the path of a file"
            )
        keys.notes.append(f"MODEL.WEIGHTS: the run starts from the local file {weights}")
        return backbone, weights
    if same.split(".")[0] != backbone["name"]:
        raise keys.error("MODEL.WEIGHTS", f"give weights of the backbone, {backbone['name']}")
    keys.notes.append(
        "MODEL.WEIGHTS: timm downloads the same weights; to use a local file, set "
        f"init={weights.rpartition('/')[2]} model.backbone.pretrained=false"
    )
    return backbone | {"name": same, "pretrained": True}, None


def _resnet(keys: Detectron2Settings) -> dict[str, Any]:
    for key, value in _REQUIRED_OF_RESNET.items():
        keys.require(key, value)
    keys.require("MODEL.RESNETS.DEPTH", 18, 34, 50, 101, 152)
    keys.require("MODEL.RESNETS.NORM", "FrozenBN", "SyncBN", "BN")
    depth, norm = keys["MODEL.RESNETS.DEPTH"], keys["MODEL.RESNETS.NORM"]
    width, stem = keys["MODEL.RESNETS.WIDTH_PER_GROUP"], keys["MODEL.RESNETS.STEM_OUT_CHANNELS"]
    # timm's bottleneck blocks output 4 times the width of their 3x3 convolution, basic blocks once.
    outputs = 64 if depth < 50 else 4 * width
    keys.require("MODEL.RESNETS.RES2_OUT_CHANNELS", outputs)
    if norm == "BN":
        keys.notes.append("MODEL.RESNETS.NORM: BN is synchronized over processes, as SyncBN")
    backbone: dict[str, Any] = {
        "name": f"resnet{depth}",
        "norm": "frozen" if norm == "FrozenBN" else "batch",
    }
    if depth >= 50 and width != 64:
        backbone["channels"] = (width, 2 * width, 4 * width, 8 * width)
    return backbone | ({} if stem == 64 else {"stem_channels": stem})


def _swin(keys: Detectron2Settings) -> dict[str, Any]:
    for key, value in _REQUIRED_OF_SWIN.items():
        keys.require(key, value)
    shape = SwinShape(
        keys["MODEL.SWIN.EMBED_DIM"],
        keys["MODEL.SWIN.DEPTHS"],
        keys["MODEL.SWIN.NUM_HEADS"],
        keys["MODEL.SWIN.WINDOW_SIZE"],
    )
    drop_path = {"drop_path_rate": keys["MODEL.SWIN.DROP_PATH_RATE"]}
    for name, (published, _) in PUBLISHED_SWINS.items():
        if shape == published:
            return {"name": name} | drop_path
    return {
        "name": "swin",
        "embed_dim": shape.embed_dim,
        "depths": shape.depths,
        "num_heads": shape.num_heads,
        "window_size": shape.window_size,
    } | drop_path
