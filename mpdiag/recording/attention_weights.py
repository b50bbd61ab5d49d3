"""Cross-attention weights, computed from the inputs of modules that do not return them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.recording.hook_spec import HookSpec, ModuleCall, first_output


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Return the softmax of scaled dot products, (B, heads, N, S).

    Args:
        query: (B, heads, N, d), not scaled.
        key: (B, heads, S, d).
        mask: (B, heads or 1, N, S): bool, True where a query may attend, or values to add.
    """
    scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1)


def packed_weights(
    attention: Any, query: Tensor, key: Tensor, num_heads: int, mask: Tensor | None
) -> Tensor:
    """Return the (B, heads, N, S) weights of a module with torch's packed input projection.

    Args:
        attention: module with `in_proj_weight` and `in_proj_bias` as in nn.MultiheadAttention.
        query: (B, N, C), not projected.
        key: (B, S, C), not projected.
        num_heads: number of heads.
        mask: as for `attention_weights`.
    """
    weights, bias = attention.in_proj_weight.chunk(3), attention.in_proj_bias
    biases = (None, None) if bias is None else bias.chunk(3)
    return attention_weights(
        split_heads(F.linear(query, weights[0], biases[0]), num_heads),
        split_heads(F.linear(key, weights[1], biases[1]), num_heads),
        mask,
    )


def masked_weights(call: ModuleCall) -> Tensor:
    """Return the weights of a masked nn.MultiheadAttention with (N, B, C) and (S, B, C) inputs."""
    num_heads: int = call.module.num_heads
    query, key = call.argument(0, "query"), call.argument(1, "key")
    visible = ~call.argument(5, "attn_mask").bool().unflatten(0, (-1, num_heads))
    return packed_weights(
        call.module, query.transpose(0, 1), key.transpose(0, 1), num_heads, visible
    )


def visible_cells(call: ModuleCall) -> Tensor:
    """Return (B, N, cells), True where a query may attend, of a masked nn.MultiheadAttention.

    Its mask is (B * heads, N, cells), True where a query may not attend, equal for all heads.
    """
    hidden: Tensor = call.argument(5, "attn_mask")
    first_head: Tensor = hidden.bool()[:: call.module.num_heads]
    return ~first_head


def cross_attention_hooks(attentions: Sequence[Any]) -> dict[str, HookSpec]:
    """Return hooks for transformers' attention modules with separate query and key projections."""

    def read(call: ModuleCall) -> Tensor:
        num_heads = int(call.required["q"].shape[-1]) // call.module.head_dim
        query, key = (split_heads(call.required[name], num_heads) for name in ("q", "k"))
        return attention_weights(query, key, call.argument(2, "attention_mask"))

    return {
        **projection_hooks(attentions),
        "cross_attention": HookSpec(attentions, len(attentions), read, requires=["q", "k"]),
    }


def projection_hooks(attentions: Sequence[Any]) -> dict[str, HookSpec]:
    """Return hooks `q` and `k` that read projected queries and keys before heads are split."""
    count = len(attentions)
    return {
        "q": HookSpec([x.q_proj for x in attentions], count, first_output),
        "k": HookSpec([x.k_proj for x in attentions], count, first_output),
    }


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Reshape (B, N, heads * d) to (B, heads, N, d)."""
    split: Tensor = x.unflatten(-1, (num_heads, -1))
    return split.transpose(1, 2)
