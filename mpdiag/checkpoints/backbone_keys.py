"""ImageNet backbones of four libraries under mpdiag's parameter names.

Sources of the names: detectron2's `tools/convert-torchvision-to-d2.py` (R-50.pkl, R-101.pkl),
torchvision's and timm's ResNets, microsoft/Swin-Transformer, and timm's Swin.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from mpdiag.checkpoints.official_keys import from_official
from mpdiag.errors import CheckpointError

# The classifier, the norm before it, and the buffers that Swin derives from its window.
_IGNORED = re.compile(r"(stem\.fc|fc|linear|head|norm)\..*|.*\.(attn_mask|relative_position_index)")


@dataclass(frozen=True, slots=True)
class Backbone:
    """Weights of a backbone.

    Attributes:
        format: library whose names the file uses, for display.
        weights: mpdiag's name (`backbone....`) -> tensor.
    """

    format: str
    weights: dict[str, Tensor]


def imagenet_backbone(state: Mapping[str, Tensor], source: str) -> Backbone | None:
    """Return the ImageNet backbone in a state dict, or None if it is something else.

    Raises:
        CheckpointError: the backbone is not supported, or has an unknown entry.
    """
    library = _library(state)
    if library is None:
        return None
    if library == "Caffe2":
        raise CheckpointError(
            f"{source}: a ResNet of Caffe2, which has its strides in other convolutions and reads "
            "BGR, is not supported; use detectron2's ImageNetPretrained/torchvision/R-50.pkl"
        )
    weights = {}
    for name, tensor in state.items():
        if _IGNORED.fullmatch(name):
            continue
        ours = _mpdiag_name(name, library)
        if ours is None:
            raise CheckpointError(f"{source}: {name} is not an entry of a known ResNet or Swin")
        weights[ours] = tensor
    return Backbone(f"with {library} names", weights)


def timm_backbone(state: Mapping[str, Tensor], wanted: Collection[str]) -> Backbone | None:
    """Return the entries of a timm model that its `features_only` variant has.

    The variant writes `stages.0.` as `stages_0.`.

    Args:
        state: state dict of the whole timm model.
        wanted: mpdiag's names of the variant's entries.

    Returns:
        The backbone, or None if an entry is missing.
    """
    weights = {}
    for name, tensor in state.items():
        for candidate in (name, re.sub(r"\.(\d+)\.", r"_\1.", name, count=1)):
            if f"backbone.{candidate}" in wanted:
                weights[f"backbone.{candidate}"] = tensor
    complete = bool(weights) and weights.keys() == set(wanted)
    return Backbone("with timm names", weights) if complete else None


def _library(state: Mapping[str, Tensor]) -> str | None:
    if "res2_0_branch2a_w" in state:
        return "Caffe2"
    if "stem.conv1.weight" in state:
        return "detectron2"
    if "layer1.0.conv1.weight" in state:
        return "torchvision"
    if "patch_embed.proj.weight" in state and any("relative_position_bias" in x for x in state):
        # timm merges patches at the start of a stage, the others at the end of the previous one.
        late = any(re.match(r"layers.3\.downsample\.", name) for name in state)
        return "timm" if late else "Swin-Transformer"
    return None


def _mpdiag_name(name: str, library: str) -> str | None:
    if library == "detectron2":
        ours = from_official(f"backbone.{name}")
        return None if ours == f"backbone.{name}" else ours
    if library == "torchvision":
        known = re.fullmatch(r"(conv1|bn1|layer[1-4])\..*", name)
        return f"backbone.{name}" if known else None
    if library == "timm":
        ours = re.sub(r"^layers[._](?=\d)", "stages.", name)
        return f"backbone.{ours}" if re.match(r"stages\.|patch_embed\.", ours) else None
    ours = from_official(f"backbone.{name}")
    return ours if ours and re.match(r"backbone\.(stages|patch_embed|norms)\.", ours) else None
