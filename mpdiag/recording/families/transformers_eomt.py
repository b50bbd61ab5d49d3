"""transformers' EoMT: queries are tokens of a plain ViT in its last blocks."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mpdiag.recording.assignments import matcher_hooks
from mpdiag.recording.attention_weights import attention_weights, projection_hooks, split_heads
from mpdiag.recording.decoder_states import HEADS_APPLIED_NOTE, DecoderStates
from mpdiag.recording.families.transformers_mask2former import MASK2FORMER_LOSS_KEYS
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall
from mpdiag.recording.transformers_family import TransformersFamily


class TransformersEomtFamily(TransformersFamily):
    """EomtForUniversalSegmentation, also with DINOv3 (modeling_eomt.py, _eomt_dinov3.py).

    The model predicts before each of the last blocks only while its masks guide attention
    (`attn_mask_probs`). The recorder always predicts there. A model whose image processor cuts
    images into windows (`do_split_image`) can't be analysed.
    """

    name = "transformers EoMT"
    notes: tuple[str, ...] = (HEADS_APPLIED_NOTE,)
    model_classes: ClassVar = {
        "eomt": "EomtForUniversalSegmentation",
        "eomt_dinov3": "EomtDinov3ForUniversalSegmentation",
    }
    loss_keys = MASK2FORMER_LOSS_KEYS

    def matching_order(self, num_layers: int) -> Sequence[int]:
        return range(num_layers)

    def hooks(self, model: Any) -> HookSpecs:
        num_queries, blocks = model.config.num_queries, model.config.num_blocks
        layers = list(model.layers)[-blocks:]
        states = DecoderStates(layers, model.layernorm, normed_between=False)
        attentions = [layer.attention for layer in layers]
        rows, columns = model.grid_size

        def predictions(call: ModuleCall) -> list[tuple[Tensor, Tensor]]:
            return [model.predict(state) for state in states.normed(call)]

        def prediction(index: int) -> Callable[[ModuleCall], list[Tensor]]:
            return lambda call: [both[index] for both in call.required["predictions"]]

        def query(call: ModuleCall) -> list[Tensor]:
            return [tokens[:, :num_queries] for tokens in states.raw(call)]

        def visible(call: ModuleCall) -> Tensor:
            """Return (B, N, cells) of a (B, heads, tokens, tokens) mask, negative if hidden."""
            tokens, mask = call.argument(0, "hidden_states"), call.argument(1, "attention_mask")
            if mask is None:
                shape = (len(tokens), num_queries, rows * columns)
                return torch.ones(shape, dtype=torch.bool, device=tokens.device)
            cells: Tensor = mask[:, 0, :num_queries, -rows * columns :] >= 0
            return cells

        def weights(call: ModuleCall) -> Tensor:
            """Return the weights from queries to patches; all 0 where a query sees no patch."""
            num_heads = call.module.num_heads
            queries = split_heads(call.required["q"][:, :num_queries], num_heads)
            patches = split_heads(call.required["k"][:, -rows * columns :], num_heads)
            position = call.argument(2, "position_embeddings")
            if position is not None:  # DINOv3; patches only
                patches = _rotated(patches, *position)
            return attention_weights(queries, patches, visible(call)[:, None]).nan_to_num(0.0)

        count = blocks + 1
        return {
            "predictions": HookSpec(layers, blocks, predictions),
            "query": HookSpec(layers, count, query),
            "class_logits": HookSpec(layers, count, prediction(1), requires=["predictions"]),
            "mask_logits": HookSpec(layers, count, prediction(0), requires=["predictions"]),
            "attention_mask": HookSpec(layers, blocks, visible),
            **projection_hooks(attentions),
            "cross_attention": HookSpec(attentions, blocks, weights, requires=["q", "k"]),
            **matcher_hooks(model.criterion.matcher, count, last_first=False),
        }


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embeddings (RoFormer) to (B, heads, cells, d), split in two halves."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin
