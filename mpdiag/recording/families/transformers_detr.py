"""transformers' DETR for segmentation: its mask head sees the last layer alone, here all."""

from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.recording.families.attention import projected_weights
from mpdiag.recording.families.decoder_states import APPLIED_HEADS, ZERO_QUERIES, DecoderStates
from mpdiag.recording.family import Family, is_a
from mpdiag.recording.tap import Call, Tap, Taps, output


class TransformersDetr(Family):
    """DetrForSegmentation (transformers, modeling_detr.py)."""

    name = "transformers DETR"
    notes: tuple[str, ...] = (APPLIED_HEADS, ZERO_QUERIES)
    class_name = "DetrForSegmentation"
    detector = "detr"

    def recognises(self, model: nn.Module) -> bool:
        return is_a(model, "transformers", self.class_name)

    def taps(self, model: Any) -> Taps:
        detector = model.get_submodule(self.detector)
        inner = detector.model
        decoder = inner.decoder
        layers = list(decoder.layers)
        states = DecoderStates(layers, decoder.layernorm, decoder.config.auxiliary_loss)
        classify = detector.class_labels_classifier

        def classes(call: Call) -> list[Tensor]:
            return [self.with_no_object(classify(state)) for state in states.normed(call)]

        def masks(call: Call) -> list[Tensor]:
            return [_masks(model, state, call) for state in states.normed(call)]

        after = len(layers) + 1
        return {
            "features": Tap([inner.backbone], 1, lambda call: call.output),
            "projected": Tap([inner.input_projection], 1, output),
            "memory": Tap([inner.encoder], 1, output),
            "query": Tap(layers, after, states.raw),
            "class_logits": Tap(layers, after, classes),
            "mask_logits": Tap(layers, after, masks, needs=["features", "projected", "memory"]),
            **self.attention([layer.encoder_attn for layer in layers]),
        }

    def with_no_object(self, class_logits: Tensor) -> Tensor:
        """What the class head gave, no-object last."""
        return class_logits

    def attention(self, attentions: list[Any]) -> Taps:
        """Taps of the cross-attention weights."""
        return projected_weights(attentions)


def _masks(model: Any, queries: Tensor, call: Call) -> Tensor:
    """(B, N, h, w) from (B, N, C) queries, as the model's forward does at its end."""
    *fine, (_, inside) = call.seen["features"]
    memory = call.seen["memory"].transpose(1, 2).unflatten(-1, inside.shape[-2:])
    outside = torch.where(inside[:, None, None], 0.0, torch.finfo(memory.dtype).min)
    attention = model.bbox_attention(queries, memory, attention_mask=outside.to(memory.dtype))
    masks: Tensor = model.mask_head(
        features=call.seen["projected"],
        attention_masks=attention,
        fpn_features=[feature for feature, _ in reversed(fine)],
    )
    return masks.view(*queries.shape[:2], *masks.shape[-2:])
