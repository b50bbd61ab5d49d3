"""transformers' DETR for segmentation: the recorder applies its heads to every layer."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from mpdiag.recording.attention_weights import cross_attention_hooks
from mpdiag.recording.decoder_states import HEADS_APPLIED_NOTE, ZERO_QUERIES_NOTE, DecoderStates
from mpdiag.recording.family import InstanceRule
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall, first_output
from mpdiag.recording.transformers_family import TransformersFamily


class TransformersDetrFamily(TransformersFamily):
    """DetrForSegmentation (transformers, modeling_detr.py). It matches by boxes and classes."""

    name = "transformers DETR"
    notes: tuple[str, ...] = (HEADS_APPLIED_NOTE, ZERO_QUERIES_NOTE)
    model_classes: ClassVar = {"detr": "DetrForSegmentation"}
    instance_rule: InstanceRule = "detr"
    detector = "detr"

    def hooks(self, model: Any) -> HookSpecs:
        detector = model.get_submodule(self.detector)
        inner = detector.model
        decoder = inner.decoder
        layers = list(decoder.layers)
        states = DecoderStates(layers, decoder.layernorm, decoder.config.auxiliary_loss)
        classify = detector.class_labels_classifier

        def classes(call: ModuleCall) -> list[Tensor]:
            return [self.with_no_object(classify(state)) for state in states.normed(call)]

        def masks(call: ModuleCall) -> list[Tensor]:
            return [_masks(model, state, call) for state in states.normed(call)]

        count = len(layers) + 1
        return {
            "features": HookSpec([inner.backbone], 1, lambda call: call.output),
            "projected": HookSpec([inner.input_projection], 1, first_output),
            "memory": HookSpec([inner.encoder], 1, first_output),
            "query": HookSpec(layers, count, states.raw),
            "class_logits": HookSpec(layers, count, classes),
            "mask_logits": HookSpec(
                layers, count, masks, requires=["features", "projected", "memory"]
            ),
            **self.attention([layer.encoder_attn for layer in layers]),
        }

    def with_no_object(self, class_logits: Tensor) -> Tensor:
        """Return the output of the class head with no-object as its last class."""
        return class_logits

    def attention(self, attentions: list[Any]) -> HookSpecs:
        """Return the hooks of the cross-attention weights."""
        return cross_attention_hooks(attentions)


def _masks(model: Any, queries: Tensor, call: ModuleCall) -> Tensor:
    """Return (B, N, h, w) for (B, N, C) queries, as the end of the model's forward does."""
    *fine, (_, inside) = call.required["features"]
    memory = call.required["memory"].transpose(1, 2).unflatten(-1, inside.shape[-2:])
    outside = torch.where(inside[:, None, None], 0.0, torch.finfo(memory.dtype).min)
    attention = model.bbox_attention(queries, memory, attention_mask=outside.to(memory.dtype))
    masks: Tensor = model.mask_head(
        features=call.required["projected"],
        attention_masks=attention,
        fpn_features=[feature for feature, _ in reversed(fine)],
    )
    return masks.view(*queries.shape[:2], *masks.shape[-2:])
