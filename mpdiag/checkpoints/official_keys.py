"""Two-way table between our parameter names and the official (detectron2) ones.

Official names: facebookresearch/Mask2Former (`mask_former_head.py`, `msdeformattn.py`,
`mask2former_transformer_decoder.py`), IDEA-Research/MP-Former (`label_enc`), and detectron2's
`resnet.py` for the backbone.
"""

import re
from collections.abc import Iterable

# In a pattern, # stands for a number and * for the rest of the name.
_RESNET = (
    ("backbone.conv1.weight", "backbone.stem.conv1.weight"),
    ("backbone.bn1.*", "backbone.stem.conv1.norm.*"),
    ("backbone.layer1.#.conv#.weight", "backbone.res2.#.conv#.weight"),
    ("backbone.layer1.#.bn#.*", "backbone.res2.#.conv#.norm.*"),
    ("backbone.layer1.#.downsample.0.weight", "backbone.res2.#.shortcut.weight"),
    ("backbone.layer1.#.downsample.1.*", "backbone.res2.#.shortcut.norm.*"),
)
_PIXEL, _THEIR_PIXEL = "pixel_decoder", "sem_seg_head.pixel_decoder"
_HEAD = "sem_seg_head.predictor"
_MODEL = (
    (f"{_PIXEL}.level_embed", f"{_THEIR_PIXEL}.transformer.level_embed"),
    (f"{_PIXEL}.layers.#.*", f"{_THEIR_PIXEL}.transformer.encoder.layers.#.*"),
    (f"{_PIXEL}.lateral.conv.weight", f"{_THEIR_PIXEL}.adapter_1.weight"),
    (f"{_PIXEL}.lateral.norm.*", f"{_THEIR_PIXEL}.adapter_1.norm.*"),
    (f"{_PIXEL}.output.conv.weight", f"{_THEIR_PIXEL}.layer_1.weight"),
    (f"{_PIXEL}.output.norm.*", f"{_THEIR_PIXEL}.layer_1.norm.*"),
    (f"{_PIXEL}.input_proj.*", f"{_THEIR_PIXEL}.input_proj.*"),
    (f"{_PIXEL}.mask_features.*", f"{_THEIR_PIXEL}.mask_features.*"),
    (
        "decoder.layers.#.cross_attn.*",
        f"{_HEAD}.transformer_cross_attention_layers.#.multihead_attn.*",
    ),
    ("decoder.layers.#.cross_norm.*", f"{_HEAD}.transformer_cross_attention_layers.#.norm.*"),
    ("decoder.layers.#.self_attn.*", f"{_HEAD}.transformer_self_attention_layers.#.self_attn.*"),
    ("decoder.layers.#.self_norm.*", f"{_HEAD}.transformer_self_attention_layers.#.norm.*"),
    ("decoder.layers.#.linear#.*", f"{_HEAD}.transformer_ffn_layers.#.linear#.*"),
    ("decoder.layers.#.feedforward_norm.*", f"{_HEAD}.transformer_ffn_layers.#.norm.*"),
    ("decoder.norm.*", f"{_HEAD}.decoder_norm.*"),
    ("decoder.query_feat.weight", f"{_HEAD}.query_feat.weight"),
    ("decoder.query_embed.weight", f"{_HEAD}.query_embed.weight"),
    ("decoder.label_embed.weight", f"{_HEAD}.label_enc.weight"),
    ("decoder.level_embed.weight", f"{_HEAD}.level_embed.weight"),
    ("decoder.class_embed.*", f"{_HEAD}.class_embed.*"),
    ("decoder.mask_embed.*", f"{_HEAD}.mask_embed.*"),
)


def _stages() -> Iterable[tuple[str, str]]:
    for ours, theirs in _RESNET:
        if "layer1" not in ours:
            yield ours, theirs
            continue
        for stage in range(1, 5):
            yield (
                ours.replace("layer1", f"layer{stage}"),
                theirs.replace("res2", f"res{stage + 1}"),
            )


# Another timm backbone has no official form and keeps its own names.
_TABLE = (*_stages(), *_MODEL, ("backbone.*", "backbone.*"))


def _compiled(source: str, target: str) -> tuple[re.Pattern[str], str]:
    pattern = re.escape(source).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)")
    groups = iter(range(1, 10))
    return re.compile(pattern), re.sub(r"[#*]", lambda _: rf"\{next(groups)}", target)


_TO_OFFICIAL = [_compiled(ours, theirs) for ours, theirs in _TABLE]
_FROM_OFFICIAL = [_compiled(theirs, ours) for ours, theirs in _TABLE]


def to_official(name: str) -> str:
    """Official name of our parameter or buffer `name`."""
    return _translate(name, _TO_OFFICIAL)


def from_official(name: str) -> str | None:
    """Our name of an official entry, or None if the model has none for it."""
    try:
        return _translate(name, _FROM_OFFICIAL)
    except KeyError:
        return None


def _translate(name: str, table: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in table:
        found = pattern.fullmatch(name)
        if found:
            return found.expand(replacement)
    raise KeyError(name)
