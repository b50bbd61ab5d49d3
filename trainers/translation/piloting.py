"""The method: `method` and `pilot` of our settings, by MP-Former's DN keys.

`mask2former/modeling/transformer_decoder/mask2former_transformer_decoder.py` in
IDEA-Research/MP-Former, whose keys Mask2Former's code has not. A file with none of them is read as
Mask2Former's: MP-Former's repository has many such, most of them copies.
"""

from typing import Any

from trainers.translation.keys import Keys

_PLAIN = "MultiScaleMaskedTransformerDecoder"
_PILOTED = "MultiScaleMaskedTransformerDecoderMaskDN"
OF_MP_FORMER = (
    "MODEL.DN.NOISE_SCALE", "MODEL.DN.NUM_DN", "MODEL.MASK_FORMER.ALL_LY_DN",
    "MODEL.MASK_FORMER.DN_MODE", "MODEL.MASK_FORMER.DN_NO_LB", "MODEL.MASK_FORMER.DN_RATIO",
    "MODEL.MASK_FORMER.HEAD_DN", "MODEL.MASK_FORMER.LB_NOISE_RATIO",
)  # fmt: skip
_NOISE = {"points": "point", "shift": "shift", "scale": "scale"}
# GT masks go into the first layer, and after each of layers 1 to 3 into the next one.
_FIRST_LAYERS = 4
_QUERIES = 100  # from here on NUM_DN is a number of queries, below it one of groups


def method_settings(keys: Keys) -> dict[str, Any]:
    """`method`, `pilot` and what they ask of `model`."""
    decoder = "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"
    keys.need(decoder, _PLAIN, _PILOTED)
    piloted = keys[decoder] == _PILOTED
    if not piloted and not any(keys.given(key) for key in OF_MP_FORMER):
        return {"method": "baseline"}
    settings: dict[str, Any] = {"model": {"query_position": False}}
    if not keys["MODEL.DN.NUM_DN"]:
        return settings | {"method": "baseline"}
    if keys["MODEL.MASK_FORMER.DN_NO_LB"]:
        raise keys.wrong("MODEL.MASK_FORMER.DN_NO_LB", "the MP part always has its class loss")
    pilot = _attention_masks(keys) if piloted else _mean_features(keys)
    number = keys["MODEL.DN.NUM_DN"]
    amount = {"queries": number} if number >= _QUERIES else {"groups": number}
    return settings | {"method": "piloted", "pilot": amount | pilot | {"follow": "release"}}


def _attention_masks(keys: Keys) -> dict[str, Any]:
    """The MP part of the paper."""
    mode = "MODEL.MASK_FORMER.DN_MODE"
    if keys[mode] in ("base", "lb", "mask"):
        raise keys.wrong(mode, "the released code breaks off with it; its scripts say points")
    keys.need(mode, *_NOISE)
    if keys["MODEL.MASK_FORMER.HEAD_DN"]:
        raise keys.wrong("MODEL.MASK_FORMER.HEAD_DN", "noise is the same for all heads here")
    noise, ratio = _NOISE[keys[mode]], keys["MODEL.DN.NOISE_SCALE"]
    if noise != "point" and not ratio:
        raise keys.wrong("MODEL.DN.NOISE_SCALE", f"the released code breaks off at {mode} {noise}")
    if noise == "scale":
        keys.notes.append(
            f"{mode}: masks are scaled by a factor drawn from both sides of 1, where the released "
            "code enlarges a share of them (DN_RATIO) by one factor"
        )
    if noise != "point":
        keys.notes.append(
            f"{mode}: every layer is fed the noised mask, which the released code inverts from the "
            "second layer on"
        )
    label_noise = max(keys["MODEL.MASK_FORMER.LB_NOISE_RATIO"], 0.0)
    if noise == "shift" and not label_noise:
        keys.notes.append(
            "MODEL.MASK_FORMER.LB_NOISE_RATIO: the released code adds noise to class embeddings "
            "in its place; here there is none"
        )
    return {
        "layers": "all" if keys["MODEL.MASK_FORMER.ALL_LY_DN"] else _FIRST_LAYERS,
        "noise": noise,
        "noise_ratio": ratio,
        "label_noise": label_noise,
    }


def _mean_features(keys: Keys) -> dict[str, Any]:
    """What MP-Former's plain decoder does: the way to feed GT of appendix D that failed."""
    keys.notes.append(
        f"MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME: in MP-Former's code {_PLAIN} feeds mean "
        "features within GT masks (appendix D), not masks; the paper's MP part is "
        f"TRANSFORMER_DECODER_NAME {_PILOTED} with DN_MODE points, which its scripts give on the "
        "command line"
    )
    if keys["MODEL.DN.NOISE_SCALE"]:
        keys.notes.append("MODEL.DN.NOISE_SCALE: no noise is added to these features")
    return {"feed": "feature-mean", "noise": "none", "label_noise": 0.0}
