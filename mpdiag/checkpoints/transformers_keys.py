"""Two-way table between our parameters and those of transformers' Mask2Former.

Names: transformers' `modeling_mask2former.py`, `modeling_resnet.py` and `modeling_swin.py`, in the
form of the checkpoints on the hub, which versions 4.57 and 5.23 were seen to read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from mpdiag.checkpoints.key_table import KeyTable
from mpdiag.checkpoints.official_keys import EMPTY_WEIGHT

_BACKBONE = "model.pixel_level_module.encoder"
_PIXEL = "model.pixel_level_module.decoder"
_DECODER = "model.transformer_module"
BATCH_COUNT = "num_batches_tracked"
_PARTS = ("query", "key", "value")
_MODEL = (
    ("pixel_decoder.level_embed", f"{_PIXEL}.level_embed"),
    ("pixel_decoder.layers.#.self_attn.*", f"{_PIXEL}.encoder.layers.#.self_attn.*"),
    ("pixel_decoder.layers.#.norm1.*", f"{_PIXEL}.encoder.layers.#.self_attn_layer_norm.*"),
    ("pixel_decoder.layers.#.linear#.*", f"{_PIXEL}.encoder.layers.#.fc#.*"),
    ("pixel_decoder.layers.#.norm2.*", f"{_PIXEL}.encoder.layers.#.final_layer_norm.*"),
    ("pixel_decoder.lateral.conv.*", f"{_PIXEL}.adapter_1.0.*"),
    ("pixel_decoder.lateral.norm.*", f"{_PIXEL}.adapter_1.1.*"),
    ("pixel_decoder.output.conv.*", f"{_PIXEL}.layer_1.0.*"),
    ("pixel_decoder.output.norm.*", f"{_PIXEL}.layer_1.1.*"),
    ("pixel_decoder.input_proj.*", f"{_PIXEL}.input_projections.*"),
    ("pixel_decoder.mask_features.*", f"{_PIXEL}.mask_projection.*"),
    ("decoder.query_feat.weight", f"{_DECODER}.queries_features.weight"),
    ("decoder.query_embed.weight", f"{_DECODER}.queries_embedder.weight"),
    ("decoder.level_embed.weight", f"{_DECODER}.level_embed.weight"),
    ("decoder.layers.#.cross_attn.*", f"{_DECODER}.decoder.layers.#.cross_attn.*"),
    ("decoder.layers.#.cross_norm.*", f"{_DECODER}.decoder.layers.#.cross_attn_layer_norm.*"),
    *(
        (
            f"decoder.layers.#.self_attn.in_proj_{kind}.{part}",
            f"{_DECODER}.decoder.layers.#.self_attn.{part[0]}_proj.{kind}",
        )
        for kind in ("weight", "bias")
        for part in _PARTS
    ),
    ("decoder.layers.#.self_attn.*", f"{_DECODER}.decoder.layers.#.self_attn.*"),
    ("decoder.layers.#.self_norm.*", f"{_DECODER}.decoder.layers.#.self_attn_layer_norm.*"),
    ("decoder.layers.#.linear#.*", f"{_DECODER}.decoder.layers.#.fc#.*"),
    ("decoder.layers.#.feedforward_norm.*", f"{_DECODER}.decoder.layers.#.final_layer_norm.*"),
    ("decoder.norm.*", f"{_DECODER}.decoder.layernorm.*"),
    (
        "decoder.mask_embed.layers.#.*",
        f"{_DECODER}.decoder.mask_predictor.mask_embedder.#.0.*",
    ),
    ("decoder.class_embed.*", "class_predictor.*"),
)


def _resnet() -> Iterable[tuple[str, str]]:
    """timm's stages and convolutions count from 1, those of transformers from 0."""
    stem = f"{_BACKBONE}.embedder.embedder"
    yield "backbone.conv1.weight", f"{stem}.convolution.weight"
    yield "backbone.bn1.*", f"{stem}.normalization.*"
    for stage in range(4):
        ours, theirs = (
            f"backbone.layer{stage + 1}.#",
            f"{_BACKBONE}.encoder.stages.{stage}.layers.#",
        )
        yield f"{ours}.downsample.0.weight", f"{theirs}.shortcut.convolution.weight"
        yield f"{ours}.downsample.1.*", f"{theirs}.shortcut.normalization.*"
        for number in range(3):
            yield f"{ours}.conv{number + 1}.weight", f"{theirs}.layer.{number}.convolution.weight"
            yield f"{ours}.bn{number + 1}.*", f"{theirs}.layer.{number}.normalization.*"


def _swin() -> Iterable[tuple[str, str]]:
    """Patches are merged at the start of a stage here, at the end of the one before there."""
    yield "backbone.patch_embed.proj.*", f"{_BACKBONE}.embeddings.patch_embeddings.projection.*"
    yield "backbone.patch_embed.norm.*", f"{_BACKBONE}.embeddings.norm.*"
    for stage in range(4):
        after = f"{_BACKBONE}.encoder.layers.{stage}.downsample.*"
        yield f"backbone.stages.{stage + 1}.downsample.*", after
        norm = f"{_BACKBONE}.hidden_states_norms.stage{stage + 1}.*"
        yield f"backbone.norms.{stage}.*", norm
    ours, theirs = "backbone.stages.#.blocks.#", f"{_BACKBONE}.encoder.layers.#.blocks.#"
    for kind in ("weight", "bias"):
        for part in _PARTS:
            yield f"{ours}.attn.qkv.{kind}.{part}", f"{theirs}.attention.self.{part}.{kind}"
    yield f"{ours}.attn.proj.*", f"{theirs}.attention.output.dense.*"
    yield f"{ours}.attn.*", f"{theirs}.attention.self.*"
    yield f"{ours}.norm1.*", f"{theirs}.layernorm_before.*"
    yield f"{ours}.norm2.*", f"{theirs}.layernorm_after.*"
    yield f"{ours}.mlp.fc1.*", f"{theirs}.intermediate.dense.*"
    yield f"{ours}.mlp.fc2.*", f"{theirs}.output.dense.*"


_TABLE = KeyTable((*_resnet(), *_swin(), *_MODEL))

# One stacked parameter here (as in the official model), three there.
_PACKED = re.compile(
    r"decoder\.layers\.\d+\.self_attn\.in_proj_\w+|backbone\.stages\..*\.attn\.qkv\.\w+"
)
# The loss's class weights, what Swin computes from its window, and the norm that its backbone
# form leaves unused.
_NO_PARAMETER = re.compile(
    rf"{re.escape(EMPTY_WEIGHT)}|.*\.relative_position_index"
    rf"|{re.escape(_BACKBONE)}\.(swin\.)?layernorm\.(weight|bias)"
)


def to_transformers(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Our parameters under transformers' names, and our names that it has no place for.

    The first also have what transformers' modules keep besides: see `_unused`.
    """
    state, left = {}, []
    for name, tensor in weights.items():
        for part, values in _split(name, tensor):
            theirs = _TABLE.there(part)
            if theirs is None:
                left.append(part)
            else:
                state[theirs] = values.contiguous()
    return _unused(state) | state, left


def from_transformers(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """transformers' parameters under our names, and its names that we have no place for.

    A packed parameter of which a part is missing stays missing.
    """
    parts: dict[str, Tensor] = {}
    left = []
    for name, tensor in state.items():
        if _NO_PARAMETER.fullmatch(name):
            continue
        ours = _TABLE.back(name)
        if ours is None:
            left.append(name)
        else:
            parts[ours] = tensor
    return _join(parts), left


def _unused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries without effect at inference, whose absence transformers reports: batch counts of
    frozen norms, and the last norm of a Swin, which its backbone form passes by."""
    unused = {}
    for name in state:
        if name.endswith(".running_mean"):
            counter = name.replace("running_mean", BATCH_COUNT)
            unused[counter] = torch.zeros((), dtype=torch.int64)
    last = state.get(f"{_BACKBONE}.hidden_states_norms.stage4.weight")
    if last is not None:
        unused[f"{_BACKBONE}.swin.layernorm.weight"] = torch.ones_like(last)
        unused[f"{_BACKBONE}.swin.layernorm.bias"] = torch.zeros_like(last)
    return unused


def _split(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if not _PACKED.fullmatch(name):
        yield name, tensor
        return
    for part, rows in zip(_PARTS, tensor.chunk(3), strict=True):
        yield f"{name}.{part}", rows


def _join(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in parts.items():
        packed = name.rpartition(".")[0]
        if not _PACKED.fullmatch(packed):
            weights[name] = tensor
        elif all(f"{packed}.{part}" in parts for part in _PARTS):
            weights[packed] = torch.cat([parts[f"{packed}.{part}"] for part in _PARTS])
    return weights
