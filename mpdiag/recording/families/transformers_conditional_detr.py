"""transformers' Conditional DETR for segmentation: DETR's heads, sigmoid classes, own attention."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.recording.attention_weights import attention_weights
from mpdiag.recording.decoder_states import SIGMOID_NOTE
from mpdiag.recording.families.transformers_detr import TransformersDetrFamily
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall


class TransformersConditionalDetrFamily(TransformersDetrFamily):
    """ConditionalDetrForSegmentation (transformers, modeling_conditional_detr.py).

    It is trained with a focal loss, a sigmoid per class. transformers'
    `post_process_instance_segmentation` takes a softmax nevertheless, and drops the last class as
    no-object. It matches by boxes and classes.
    """

    name = "transformers Conditional DETR"
    notes = (*TransformersDetrFamily.notes, SIGMOID_NOTE)
    model_classes: ClassVar = {"conditional_detr": "ConditionalDetrForSegmentation"}
    instance_rule = "sigmoid"
    detector = "conditional_detr"

    def with_no_object(self, class_logits: Tensor) -> Tensor:
        return F.pad(class_logits, (0, 1))

    def attention(self, attentions: list[Any]) -> HookSpecs:
        return {"cross_attention": HookSpec(attentions, len(attentions), _weights)}


def _weights(call: ModuleCall) -> Tensor:
    """Return weights of concatenated content and position; the first layer also adds them."""
    module = call.module
    query = module.q_content_proj(call.argument(0, "hidden_states"))
    key = module.k_content_proj(call.argument(1, "encoder_hidden_states"))
    key_position = module.k_pos_proj(call.argument(3, "encoder_position_embeddings"))
    query_position = call.argument(4, "query_position_embeddings")
    if query_position is not None:
        query = query + module.q_pos_proj(query_position)
        key = key + key_position
    sine = module.q_pos_sine_proj(call.argument(2, "query_sine_embed"))

    def heads(content: Tensor, position: Tensor) -> Tensor:
        shape = (module.num_attention_heads, -1)
        both = torch.cat([content.unflatten(-1, shape), position.unflatten(-1, shape)], -1)
        return both.transpose(1, 2)

    return attention_weights(
        heads(query, sine), heads(key, key_position), call.argument(5, "attention_mask")
    )
