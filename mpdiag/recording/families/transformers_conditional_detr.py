"""transformers' Conditional DETR for segmentation: DETR's heads but sigmoids, own attention."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.recording.families.attention import attention_weights
from mpdiag.recording.families.decoder_states import SIGMOIDS
from mpdiag.recording.families.transformers_detr import TransformersDetr
from mpdiag.recording.tap import Call, Tap, Taps


class TransformersConditionalDetr(TransformersDetr):
    """ConditionalDetrForSegmentation (transformers, modeling_conditional_detr.py).

    It is trained with a focal loss, a sigmoid for each class; transformers' masks by
    `post_process_instance_segmentation` take a softmax all the same, and its last class for none.
    """

    name = "transformers Conditional DETR"
    notes = (*TransformersDetr.notes, SIGMOIDS)
    class_name = "ConditionalDetrForSegmentation"
    detector = "conditional_detr"

    def with_no_object(self, class_logits: Tensor) -> Tensor:
        return F.pad(class_logits, (0, 1))

    def attention(self, attentions: list[Any]) -> Taps:
        return {"cross_attention": Tap(attentions, len(attentions), _weights)}


def _weights(call: Call) -> Tensor:
    """Content and position side by side in each head; in the first layer they are added, too."""
    at = call.module
    query = at.q_content_proj(call.argument(0, "hidden_states"))
    key = at.k_content_proj(call.argument(1, "encoder_hidden_states"))
    key_position = at.k_pos_proj(call.argument(3, "encoder_position_embeddings"))
    query_position = call.argument(4, "query_position_embeddings")
    if query_position is not None:
        query = query + at.q_pos_proj(query_position)
        key = key + key_position
    sine = at.q_pos_sine_proj(call.argument(2, "query_sine_embed"))

    def heads(content: Tensor, position: Tensor) -> Tensor:
        shape = (at.num_attention_heads, -1)
        both = torch.cat([content.unflatten(-1, shape), position.unflatten(-1, shape)], -1)
        return both.transpose(1, 2)

    return attention_weights(
        heads(query, sine), heads(key, key_position), call.argument(5, "attention_mask")
    )
