"""Backbones pre-trained on ImageNet, as four libraries name them, under our names.

Names: detectron2's `tools/convert-torchvision-to-d2.py` (R-50.pkl, R-101.pkl), torchvision's and
timm's ResNets, microsoft/Swin-Transformer, and timm's Swin.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from mpdiag.checkpoints.official_keys import from_official
from mpdiag.errors import CheckpointError

# Left out: the classifier, the norm before it, and what a Swin computes from its window.
_NOT_BACKBONE = re.compile(
    r"(stem\.fc|fc|linear|head|norm)\..*|.*\.(attn_mask|relative_position_index)"
)


@dataclass(frozen=True, slots=True)
class Backbone:
    """`form` says whose names the file uses; `weights` has ours, beginning with `backbone.`."""

    form: str
    weights: dict[str, Tensor]


def imagenet_backbone(state: Mapping[str, Tensor], source: str) -> Backbone | None:
    """The ImageNet backbone that these entries are, or None if they are something else.

    Raises:
        CheckpointError: a backbone that our models can't take, or an entry that belongs to none.
    """
    form = _form(state)
    if form is None:
        return None
    if form == "Caffe2":
        raise CheckpointError(
            f"{source}: an original ResNet of Caffe2, which has its strides in other convolutions "
            "and reads BGR; take detectron2's ImageNetPretrained/torchvision/R-50.pkl"
        )
    weights = {}
    for name, tensor in state.items():
        if _NOT_BACKBONE.fullmatch(name):
            continue
        ours = _our_name(name, form)
        if ours is None:
            raise CheckpointError(f"{source}: {name} belongs to no ResNet or Swin that is known")
        weights[ours] = tensor
    return Backbone(f"named as {form} does", weights)


def timm_backbone(state: Mapping[str, Tensor], wanted: Collection[str]) -> Backbone | None:
    """The entries of a whole timm model that its `features_only` form, named `wanted`, has.

    That form writes `stages.0.` as `stages_0.`. None unless all wanted entries are there.
    """
    weights = {}
    for name, tensor in state.items():
        for candidate in (name, re.sub(r"\.(\d+)\.", r"_\1.", name, count=1)):
            if f"backbone.{candidate}" in wanted:
                weights[f"backbone.{candidate}"] = tensor
    whole = bool(weights) and weights.keys() == set(wanted)
    return Backbone("named as timm does", weights) if whole else None


def _form(state: Mapping[str, Tensor]) -> str | None:
    if "res2_0_branch2a_w" in state:
        return "Caffe2"
    if "stem.conv1.weight" in state:
        return "detectron2"
    if "layer1.0.conv1.weight" in state:
        return "torchvision"
    if "patch_embed.proj.weight" in state and any("relative_position_bias" in x for x in state):
        # timm merges patches at the start of a stage, the others at the end of the one before.
        late = any(re.match(r"layers.3\.downsample\.", name) for name in state)
        return "timm" if late else "Swin-Transformer"
    return None


def _our_name(name: str, form: str) -> str | None:
    if form == "detectron2":
        ours = from_official(f"backbone.{name}")
        return None if ours == f"backbone.{name}" else ours
    if form == "torchvision":
        known = re.fullmatch(r"(conv1|bn1|layer[1-4])\..*", name)
        return f"backbone.{name}" if known else None
    if form == "timm":
        ours = re.sub(r"^layers[._](?=\d)", "stages.", name)
        return f"backbone.{ours}" if re.match(r"stages\.|patch_embed\.", ours) else None
    ours = from_official(f"backbone.{name}")
    return ours if ours and re.match(r"backbone\.(stages|patch_embed|norms)\.", ours) else None
