"""Table from the parameter names of mmdetection and mmsegmentation to mpdiag's names.

Sources: mmdetection 3.3 (`mask2former_head.py`, `msdeformattn_pixel_decoder.py`,
`mask2former_layers.py`, `swin.py`) and its names before version 3. mmsegmentation calls the same
head `decode_head`. Both libraries have the architecture of the official Mask2Former.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from mpdiag.checkpoints.key_table import KeyTable

_PIXEL, _DECODER = "head.pixel_decoder", "head.transformer_decoder"
_MODEL = (
    ("pixel_decoder.input_proj.#.0.*", f"{_PIXEL}.input_convs.#.conv.*"),
    ("pixel_decoder.input_proj.#.1.*", f"{_PIXEL}.input_convs.#.gn.*"),
    ("pixel_decoder.level_embed", f"{_PIXEL}.level_encoding.weight"),
    ("pixel_decoder.layers.#.self_attn.*", f"{_PIXEL}.encoder.layers.#.self_attn.*"),
    ("pixel_decoder.layers.#.norm1.*", f"{_PIXEL}.encoder.layers.#.norms.0.*"),
    ("pixel_decoder.layers.#.linear1.*", f"{_PIXEL}.encoder.layers.#.ffn.layers.0.0.*"),
    ("pixel_decoder.layers.#.linear2.*", f"{_PIXEL}.encoder.layers.#.ffn.layers.1.*"),
    ("pixel_decoder.layers.#.norm2.*", f"{_PIXEL}.encoder.layers.#.norms.1.*"),
    ("pixel_decoder.lateral.conv.*", f"{_PIXEL}.lateral_convs.0.conv.*"),
    ("pixel_decoder.lateral.norm.*", f"{_PIXEL}.lateral_convs.0.gn.*"),
    ("pixel_decoder.output.conv.*", f"{_PIXEL}.output_convs.0.conv.*"),
    ("pixel_decoder.output.norm.*", f"{_PIXEL}.output_convs.0.gn.*"),
    ("pixel_decoder.mask_features.*", f"{_PIXEL}.mask_feature.*"),
    ("decoder.layers.#.cross_attn.*", f"{_DECODER}.layers.#.cross_attn.attn.*"),
    ("decoder.layers.#.cross_norm.*", f"{_DECODER}.layers.#.norms.0.*"),
    ("decoder.layers.#.self_attn.*", f"{_DECODER}.layers.#.self_attn.attn.*"),
    ("decoder.layers.#.self_norm.*", f"{_DECODER}.layers.#.norms.1.*"),
    ("decoder.layers.#.linear1.*", f"{_DECODER}.layers.#.ffn.layers.0.0.*"),
    ("decoder.layers.#.linear2.*", f"{_DECODER}.layers.#.ffn.layers.1.*"),
    ("decoder.layers.#.feedforward_norm.*", f"{_DECODER}.layers.#.norms.2.*"),
    ("decoder.norm.*", f"{_DECODER}.post_norm.*"),
    ("decoder.query_feat.weight", "head.query_feat.weight"),
    ("decoder.query_embed.weight", "head.query_embed.weight"),
    ("decoder.level_embed.weight", "head.level_embed.weight"),
    ("decoder.class_embed.*", "head.cls_embed.*"),
    *((f"decoder.mask_embed.layers.{i}.*", f"head.mask_embed.{2 * i}.*") for i in range(3)),
)


def _swin_pairs() -> Iterable[tuple[str, str]]:
    """Yield the pairs of a Swin; mmdetection merges patches at the end of the previous stage."""
    yield "backbone.patch_embed.proj.*", "backbone.patch_embed.projection.*"
    for stage in range(3):
        yield f"backbone.stages.{stage + 1}.downsample.*", f"backbone.stages.{stage}.downsample.*"
    block = "backbone.stages.#.blocks.#"
    yield f"{block}.attn.*", f"{block}.attn.w_msa.*"
    yield f"{block}.mlp.fc1.*", f"{block}.ffn.layers.0.0.*"
    yield f"{block}.mlp.fc2.*", f"{block}.ffn.layers.1.*"
    yield "backbone.norms.#.*", "backbone.norm#.*"


# A ResNet and the other entries of a Swin have the same names.
_TABLE = KeyTable((*_swin_pairs(), *_MODEL, ("backbone.*", "backbone.*")))
_HEADS = ("panoptic_head", "decode_head")  # of mmdetection, of mmsegmentation
_HEAD = re.compile("|".join(rf"{head}\." for head in _HEADS))
_BEFORE_VERSION_3 = (
    ("transformer_decoder.layers.#.cross_attn.*", "transformer_decoder.layers.#.attentions.0.*"),
    ("transformer_decoder.layers.#.self_attn.*", "transformer_decoder.layers.#.attentions.1.*"),
    ("pixel_decoder.encoder.layers.#.self_attn.*", "pixel_decoder.encoder.layers.#.attentions.0.*"),
    *(
        (f"{part}.layers.#.ffn.*", f"{part}.layers.#.ffns.0.*")
        for part in ("transformer_decoder", "pixel_decoder.encoder")
    ),
)
_OLD_NAMES = KeyTable((f"head.{new}", f"head.{old}") for new, old in _BEFORE_VERSION_3)
_BATCH_COUNT = ".num_batches_tracked"
_MERGED = re.compile(r"backbone\.stages\.\d\.downsample\.(norm\.\w+|reduction\.weight)")


def is_mmdetection(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a Mask2Former of mmdetection or mmsegmentation."""
    return any(f"{head}.query_feat.weight" in state for head in _HEADS)


def from_mmdetection(state: Mapping[str, Tensor]) -> Iterator[tuple[str | None, str, Tensor]]:
    """Yield mpdiag's name, None if it has none, the name in the file and the values of entries."""
    for name, tensor in state.items():
        if name.endswith(_BATCH_COUNT):
            continue
        theirs = _HEAD.sub("head.", name, count=1)
        ours = _TABLE.inverse(_OLD_NAMES.inverse(theirs) or theirs)
        if _MERGED.fullmatch(name) and tensor.ndim and tensor.shape[-1] % 4 == 0:
            tensor = _merged_patches(tensor)
        yield ours, name, tensor


def _merged_patches(values: Tensor) -> Tensor:
    """Reorder the last axis of a Swin's merging of patches.

    mmdetection has the four patches of a channel in rows (`nn.Unfold`), the official Swin all
    channels of a patch, with the patches in columns.
    """
    patches: Tensor = values.unflatten(-1, (-1, 4)).transpose(-1, -2)
    return patches[..., [0, 2, 1, 3], :].flatten(-2)


def class_names(meta: Any) -> list[str] | None:
    """Return the names of the classes in the entry `meta` of a checkpoint; None if it has none."""
    if not isinstance(meta, Mapping):
        return None
    data = meta.get("dataset_meta")
    names = data.get("classes") if isinstance(data, Mapping) else meta.get("CLASSES")
    if not isinstance(names, list | tuple) or not all(isinstance(x, str) for x in names):
        return None
    return list(names)
