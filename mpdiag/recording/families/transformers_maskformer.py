"""transformers' MaskFormer: its heads see the last layer alone, here they see the others too."""

from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.recording.families.attention import projected_weights
from mpdiag.recording.families.decoder_states import APPLIED_HEADS, ZERO_QUERIES, DecoderStates
from mpdiag.recording.family import Family, is_a
from mpdiag.recording.tap import Call, Tap, Taps


class TransformersMaskFormer(Family):
    """MaskFormerForInstanceSegmentation (transformers, modeling_maskformer.py).

    Every layer is read as the official MaskFormer trains it: the decoder's output norm, then the
    heads. transformers' own auxiliary outputs leave the norm out before the last layer.
    """

    name = "transformers MaskFormer"
    notes = (APPLIED_HEADS, ZERO_QUERIES)

    def recognises(self, model: nn.Module) -> bool:
        return is_a(model, "transformers", "MaskFormerForInstanceSegmentation")

    def taps(self, model: Any) -> Taps:
        decoder = model.model.transformer_module.decoder
        layers = list(decoder.layers)
        states = DecoderStates(layers, decoder.layernorm, decoder.config.auxiliary_loss)
        classify, embed = (model.get_submodule(x) for x in ("class_predictor", "mask_embedder"))

        def classes(call: Call) -> list[Tensor]:
            return [classify(state) for state in states.normed(call)]

        def masks(call: Call) -> list[Tensor]:
            features = call.seen["mask_features"]
            return [
                torch.einsum("bqc,bchw->bqhw", embed(state), features)
                for state in states.normed(call)
            ]

        after = len(layers) + 1
        pixels = model.model.pixel_level_module
        return {
            "mask_features": Tap([pixels], 1, lambda call: call.output[1]),
            "query": Tap(layers, after, states.raw),
            "class_logits": Tap(layers, after, classes),
            "mask_logits": Tap(layers, after, masks, needs=["mask_features"]),
            **projected_weights([layer.encoder_attn for layer in layers]),
        }
