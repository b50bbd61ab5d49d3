"""transformers' Mask2Former: the decoder itself predicts in every layer."""

from torch import Tensor, nn

from mpdiag.recording.family import Family, is_a
from mpdiag.recording.tap import Call, Tap, Taps, first, output


class TransformersMask2Former(Family):
    """Mask2FormerForUniversalSegmentation (transformers, modeling_mask2former.py)."""

    name = "transformers Mask2Former"

    def recognises(self, model: nn.Module) -> bool:
        return is_a(model, "transformers", "Mask2FormerForUniversalSegmentation")

    def taps(self, model: nn.Module) -> Taps:
        decoder = model.get_submodule("model.transformer_module.decoder")
        layers = list(decoder.get_submodule("layers").children())
        cross = [layer.get_submodule("cross_attn") for layer in layers]
        after = len(layers) + 1
        return {
            # The norm, the mask predictor and the class predictor take (N, B, C) in turn.
            "query": Tap([decoder.get_submodule("layernorm")], after, _query),
            "class_logits": Tap([model.get_submodule("class_predictor")], after, output),
            "mask_logits": Tap([decoder.get_submodule("mask_predictor")], after, output),
            "attention_mask": Tap(cross, len(layers), visible),
        }


def _query(call: Call) -> Tensor:
    return first(call.args).transpose(0, 1)


def visible(call: Call) -> Tensor:
    """(B, N, cells), True where a query may attend, of a torch MultiheadAttention that is masked.

    Its mask is (B * heads, N, cells), True where a query may not, and the same for all heads.
    """
    hidden: Tensor = call.argument(5, "attn_mask")
    first_head: Tensor = hidden.bool()[:: call.module.num_heads]
    return ~first_head
