"""`method` and the section `pilot`, from MP-Former's DN keys.

Source: `mask2former/modeling/transformer_decoder/mask2former_transformer_decoder.py` in
IDEA-Research/MP-Former. Mask2Former does not have these keys; a file without them describes a
Mask2Former, also in MP-Former's repository.
"""

from typing import Any

from trainers.detectron2_recipes.keys import Detectron2Settings

_PLAIN = "MultiScaleMaskedTransformerDecoder"
_PILOTED = "MultiScaleMaskedTransformerDecoderMaskDN"
OF_MP_FORMER = (
    "MODEL.DN.NOISE_SCALE", "MODEL.DN.NUM_DN", "MODEL.MASK_FORMER.ALL_LY_DN",
    "MODEL.MASK_FORMER.DN_MODE", "MODEL.MASK_FORMER.DN_NO_LB", "MODEL.MASK_FORMER.DN_RATIO",
    "MODEL.MASK_FORMER.HEAD_DN", "MODEL.MASK_FORMER.LB_NOISE_RATIO",
)  # fmt: skip
_NOISE = {"points": "point", "shift": "shift", "scale": "scale"}
# The first layer uses GT masks, and so do the layers after layers 1 to 3.
_FIRST_LAYERS = 4
_QUERIES = 100  # NUM_DN is a number of queries from here on, a number of groups below


def method_settings(keys: Detectron2Settings) -> dict[str, Any]:
    """Return `method`, `pilot`, and what they need of `model`."""
    decoder = "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"
    keys.require(decoder, _PLAIN, _PILOTED)
    piloted = keys[decoder] == _PILOTED
    if not piloted and not any(keys.is_set(key) for key in OF_MP_FORMER):
        return {"method": "baseline"}
    settings: dict[str, Any] = {"model": {"query_position": False}}
    if not keys["MODEL.DN.NUM_DN"]:
        return settings | {"method": "baseline"}
    if keys["MODEL.MASK_FORMER.DN_NO_LB"]:
        raise keys.error(
            "MODEL.MASK_FORMER.DN_NO_LB", "not supported: the MP part always has a class loss"
        )
    pilot = _attention_masks(keys) if piloted else _mean_features(keys)
    number = keys["MODEL.DN.NUM_DN"]
    amount = {"num_queries": number} if number >= _QUERIES else {"num_groups": number}
    return settings | {"method": "piloted", "pilot": amount | pilot | {"variant": "official"}}


def _attention_masks(keys: Detectron2Settings) -> dict[str, Any]:
    """Return the MP part of the paper."""
    mode = "MODEL.MASK_FORMER.DN_MODE"
    if keys[mode] in ("base", "lb", "mask"):
        raise keys.error(mode, "the official code fails with it; its scripts use points")
    keys.require(mode, *_NOISE)
    if keys["MODEL.MASK_FORMER.HEAD_DN"]:
        raise keys.error(
            "MODEL.MASK_FORMER.HEAD_DN", "not supported: noise is the same for all heads"
        )
    noise, ratio = _NOISE[keys[mode]], keys["MODEL.DN.NOISE_SCALE"]
    if noise != "point" and not ratio:
        raise keys.error(
            "MODEL.DN.NOISE_SCALE", f"the official code fails with it at {mode} {noise}"
        )
    if noise == "scale":
        keys.notes.append(
            f"{mode}: all masks are scaled by a random factor above or below 1; the official code "
            "enlarges a share of them (DN_RATIO) by one factor"
        )
    if noise != "point":
        keys.notes.append(
            f"{mode}: every layer uses the noised mask; the official code inverts it from the "
            "second layer on"
        )
    label_noise = max(keys["MODEL.MASK_FORMER.LB_NOISE_RATIO"], 0.0)
    if noise == "shift" and not label_noise:
        keys.notes.append(
            "MODEL.MASK_FORMER.LB_NOISE_RATIO: no label noise; the official code adds noise to "
            "class embeddings instead"
        )
    return {
        "layers": "all" if keys["MODEL.MASK_FORMER.ALL_LY_DN"] else _FIRST_LAYERS,
        "noise": noise,
        "noise_ratio": ratio,
        "label_noise": label_noise,
    }


def _mean_features(keys: Detectron2Settings) -> dict[str, Any]:
    """Return the MP part of MP-Former's plain decoder, an alternative of appendix D that fails."""
    keys.notes.append(
        f"MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME: in MP-Former's code {_PLAIN} uses mean "
        "features within GT masks as queries (appendix D), not GT masks as attention masks; for "
        f"the paper's MP part, set TRANSFORMER_DECODER_NAME {_PILOTED} and DN_MODE points, as the "
        "official scripts do"
    )
    if keys["MODEL.DN.NOISE_SCALE"]:
        keys.notes.append("MODEL.DN.NOISE_SCALE: no noise is added to these features")
    return {"query_input": "feature-mean", "noise": "none", "label_noise": 0.0}
