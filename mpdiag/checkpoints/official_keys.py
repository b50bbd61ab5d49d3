"""Two-way table between mpdiag's parameter names and the official (detectron2) names.

Sources of the official names: facebookresearch/Mask2Former (`mask_former_head.py`,
`msdeformattn.py`, `mask2former_transformer_decoder.py`), IDEA-Research/MP-Former (`label_enc`),
and for the backbones detectron2's `resnet.py` and Mask2Former's `swin.py`.
"""

from collections.abc import Iterable

from mpdiag.checkpoints.key_table import KeyTable

# Entries of official state dicts that are not parameters of the network: the class weights of the
# loss and, in early versions, the pixel statistics.
EMPTY_WEIGHT, PIXEL_MEAN, PIXEL_STD = "criterion.empty_weight", "pixel_mean", "pixel_std"
# The official Swin saves these buffers; mpdiag derives them from the window size.
DERIVED_BUFFER_SUFFIX = ".attn.relative_position_index"
# Without these versions the official head renames a pixel decoder's entries as if they were of
# version 1, and does not load its pixel decoder.
VERSIONS = {"": 1, "sem_seg_head": 2, "sem_seg_head.predictor": 2}

_RESNET = (
    ("backbone.conv1.weight", "backbone.stem.conv1.weight"),
    ("backbone.bn1.*", "backbone.stem.conv1.norm.*"),
    ("backbone.layer1.#.conv#.weight", "backbone.res2.#.conv#.weight"),
    ("backbone.layer1.#.bn#.*", "backbone.res2.#.conv#.norm.*"),
    ("backbone.layer1.#.downsample.0.weight", "backbone.res2.#.shortcut.weight"),
    ("backbone.layer1.#.downsample.1.*", "backbone.res2.#.shortcut.norm.*"),
)
# The official Swin merges patches at the end of a stage, mpdiag's (timm's) at the start of the
# next stage.
_SWIN = (
    ("backbone.stages.#.blocks.#.*", "backbone.layers.#.blocks.#.*"),
    *(
        (f"backbone.stages.{stage + 1}.downsample.*", f"backbone.layers.{stage}.downsample.*")
        for stage in range(3)
    ),
    ("backbone.norms.#.*", "backbone.norm#.*"),
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


def _resnet_pairs() -> Iterable[tuple[str, str]]:
    for ours, theirs in _RESNET:
        if "layer1" not in ours:
            yield ours, theirs
            continue
        for stage in range(1, 5):
            yield (
                ours.replace("layer1", f"layer{stage}"),
                theirs.replace("res2", f"res{stage + 1}"),
            )


# patch_embed of a Swin has the same name in both; other timm backbones keep their names.
_TABLE = KeyTable((*_resnet_pairs(), *_SWIN, *_MODEL, ("backbone.*", "backbone.*")))


def to_official(name: str) -> str:
    """Return the official name of mpdiag's parameter or buffer `name`; KeyError if it has none."""
    official = _TABLE.forward(name)
    if official is None:
        raise KeyError(name)
    return official


def from_official(name: str) -> str | None:
    """Return mpdiag's name of an official entry of any version, or None if the model has none.

    Before version 2 the entries of the pixel decoder were those of the head, and `query_feat` was
    called `static_query` (`_load_from_state_dict` of the official head and of its decoder).
    """
    head, dot, rest = name.partition(".")
    if head == "sem_seg_head" and not rest.startswith(("predictor.", "pixel_decoder.")):
        name = f"{_THEIR_PIXEL}{dot}{rest}"
    return _TABLE.inverse(name.replace(f"{_HEAD}.static_query.", f"{_HEAD}.query_feat."))
