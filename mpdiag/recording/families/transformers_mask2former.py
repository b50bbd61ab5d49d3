"""transformers' Mask2Former: the decoder itself predicts in every layer."""

from typing import Any

from torch import Tensor, nn

from mpdiag.recording.families.attention import masked_weights, visible_cells
from mpdiag.recording.families.deformable import sampling_taps
from mpdiag.recording.families.matchings import matching_taps
from mpdiag.recording.family import Family, is_a
from mpdiag.recording.tap import Call, Tap, Taps, first, output


class TransformersMask2Former(Family):
    """Mask2FormerForUniversalSegmentation (transformers, modeling_mask2former.py)."""

    name = "transformers Mask2Former"

    def recognises(self, model: nn.Module) -> bool:
        return is_a(model, "transformers", "Mask2FormerForUniversalSegmentation")

    def taps(self, model: Any) -> Taps:
        decoder = model.model.transformer_module.decoder
        layers = list(decoder.layers)
        cross = [layer.cross_attn for layer in layers]
        encoder = model.model.pixel_level_module.decoder.encoder.layers
        after = len(layers) + 1
        return {
            # The norm, the mask predictor and the class predictor take (N, B, C) in turn.
            "query": Tap([decoder.layernorm], after, _query),
            "class_logits": Tap([model.class_predictor], after, output),
            "mask_logits": Tap([decoder.mask_predictor], after, output),
            "attention_mask": Tap(cross, len(layers), visible_cells),
            "cross_attention": Tap(cross, len(layers), masked_weights),
            **matching_taps(model.criterion.matcher, after, last_first=True),
            **sampling_taps([layer.self_attn for layer in encoder]),
        }


def _query(call: Call) -> Tensor:
    return first(call.args).transpose(0, 1)
