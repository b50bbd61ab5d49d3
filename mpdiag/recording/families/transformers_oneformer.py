"""transformers' OneFormer: a masked decoder whose heads are modules, called in every layer."""

from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.recording.families.attention import masked_weights, visible_cells
from mpdiag.recording.families.deformable import sampling_taps
from mpdiag.recording.families.matchings import matching_taps
from mpdiag.recording.family import Family, is_a
from mpdiag.recording.tap import Call, Tap, Taps, output


class TransformersOneFormer(Family):
    """OneFormerForUniversalSegmentation (transformers, modeling_oneformer.py).

    Its last query is the task token, which predicts as the others do.
    """

    name = "transformers OneFormer"

    def recognises(self, model: nn.Module) -> bool:
        return is_a(model, "transformers", "OneFormerForUniversalSegmentation")

    def taps(self, model: Any) -> Taps:
        decoder = model.model.transformer_module.decoder
        pixels = model.model.pixel_level_module
        layers = list(decoder.layers)
        cross = [layer.cross_attn.multihead_attn for layer in layers]
        encoder = pixels.decoder.encoder.layers

        def query(call: Call) -> list[Tensor]:
            """(N, B, C): what went into the first layer, and what came out of each."""
            before = [call.kwargs["output"]] if call.module is layers[0] else []
            return [state.transpose(0, 1) for state in (*before, output(call))]

        after = len(layers) + 1
        return {
            "mask_features": Tap([pixels], 1, lambda call: call.output.decoder_last_feature),
            "query": Tap(layers, after, query),
            "class_logits": Tap([decoder.class_embed], after, output),
            "mask_logits": Tap([decoder.mask_embed], after, _masks, needs=["mask_features"]),
            "attention_mask": Tap(cross, len(layers), visible_cells),
            "cross_attention": Tap(cross, len(layers), masked_weights),
            **matching_taps(model.criterion.matcher, after, last_first=True),
            **sampling_taps([layer.self_attn for layer in encoder]),
        }


def _masks(call: Call) -> Tensor:
    return torch.einsum("bqc,bchw->bqhw", call.output, call.seen["mask_features"])
