"""Two-way table between mpdiag's parameter names and those of transformers' Mask2Former.

Sources of the names: transformers' `modeling_mask2former.py`, `modeling_resnet.py` and
`modeling_swin.py`, as in the checkpoints on the hub. transformers 4.57 and 5.23 read them.
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


def _resnet_pairs() -> Iterable[tuple[str, str]]:
    """Yield the pairs of a ResNet; timm numbers stages and layers from 1, transformers from 0."""
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


def _swin_pairs() -> Iterable[tuple[str, str]]:
    """Yield the pairs of a Swin; transformers merges patches at the end of the previous stage."""
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


_TABLE = KeyTable((*_resnet_pairs(), *_swin_pairs(), *_MODEL))

# One packed parameter in mpdiag and the official model, three in transformers.
_PACKED = re.compile(
    r"decoder\.layers\.\d+\.self_attn\.in_proj_\w+|backbone\.stages\..*\.attn\.qkv\.\w+"
)
# The class weights of the loss, the buffers that Swin derives from its window, and a norm that
# Swin does not use as a backbone.
_IGNORED = re.compile(
    rf"{re.escape(EMPTY_WEIGHT)}|.*\.relative_position_index"
    rf"|{re.escape(_BACKBONE)}\.(swin\.)?layernorm\.(weight|bias)"
)


def is_transformers(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a Mask2Former of transformers."""
    return f"{_DECODER}.queries_features.weight" in state


def to_transformers(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return parameters under transformers' names, and mpdiag's names that it does not have.

    The parameters include entries that transformers' modules save without using them.
    """
    state, unexpected = {}, []
    for name, tensor in weights.items():
        for part, values in _unpack(name, tensor):
            theirs = _TABLE.forward(part)
            if theirs is None:
                unexpected.append(part)
            else:
                state[theirs] = values.contiguous()
    return _unused_entries(state) | state, unexpected


def from_transformers(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return parameters under mpdiag's names, and transformers' names that mpdiag does not have.

    A packed parameter is missing if a part of it is, or if its parts differ in shape.
    """
    parts: dict[str, Tensor] = {}
    unexpected = []
    for name, tensor in state.items():
        if _IGNORED.fullmatch(name):
            continue
        ours = _TABLE.inverse(name)
        if ours is None:
            unexpected.append(name)
        else:
            parts[ours] = tensor
    return _pack(parts), unexpected


def _unused_entries(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return entries that have no effect, but that transformers would report as missing.

    These are the batch counts of frozen norms, and the last norm of a Swin.
    """
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


def _unpack(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if not _PACKED.fullmatch(name):
        yield name, tensor
        return
    for part, rows in zip(_PARTS, tensor.chunk(3), strict=True):
        yield f"{name}.{part}", rows


def _pack(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in parts.items():
        packed = name.rpartition(".")[0]
        if not _PACKED.fullmatch(packed):
            weights[name] = tensor
        elif all(f"{packed}.{part}" in parts for part in _PARTS):
            rows = [parts[f"{packed}.{part}"] for part in _PARTS]
            if tensor.ndim and all(x.shape == tensor.shape for x in rows):
                weights[packed] = torch.cat(rows)
    return weights
