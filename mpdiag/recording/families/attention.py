"""Cross-attention weights, worked out from what goes into attention that returns none."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.recording.tap import Call, Tap, output


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """(B, heads, N, S) softmax of scaled products.

    Args:
        query: (B, heads, N, d), not scaled.
        key: (B, heads, S, d).
        mask: bool, True where a query may attend, or numbers to add; (B, heads or 1, N, S).
    """
    scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1)


def packed_weights(
    attention: Any, query: Tensor, key: Tensor, heads: int, mask: Tensor | None
) -> Tensor:
    """(B, heads, N, S) of (B, N, C) queries and (B, S, C) keys, before torch's packed projection.

    `attention` has the `in_proj_weight` and `in_proj_bias` of torch's MultiheadAttention.
    """
    weights, bias = attention.in_proj_weight.chunk(3), attention.in_proj_bias
    biases = (None, None) if bias is None else bias.chunk(3)
    return attention_weights(
        split_heads(F.linear(query, weights[0], biases[0]), heads),
        split_heads(F.linear(key, weights[1], biases[1]), heads),
        mask,
    )


def masked_weights(call: Call) -> Tensor:
    """Of a torch MultiheadAttention that is masked, with (N, B, C) queries and (S, B, C) keys."""
    heads: int = call.module.num_heads
    query, key = call.argument(0, "query"), call.argument(1, "key")
    visible = ~call.argument(5, "attn_mask").bool().unflatten(0, (-1, heads))
    return packed_weights(call.module, query.transpose(0, 1), key.transpose(0, 1), heads, visible)


def visible_cells(call: Call) -> Tensor:
    """(B, N, cells), True where a query may attend, of a torch MultiheadAttention that is masked.

    Its mask is (B * heads, N, cells), True where a query may not, and the same for all heads.
    """
    hidden: Tensor = call.argument(5, "attn_mask")
    first_head: Tensor = hidden.bool()[:: call.module.num_heads]
    return ~first_head


def projected_weights(attentions: Sequence[Any]) -> dict[str, Tap]:
    """Taps for transformers' attention modules with a projection of queries and one of keys."""

    def read(call: Call) -> Tensor:
        heads = int(call.seen["q"].shape[-1]) // call.module.head_dim
        query, key = (split_heads(call.seen[name], heads) for name in ("q", "k"))
        return attention_weights(query, key, call.argument(2, "attention_mask"))

    return {
        **projections(attentions),
        "cross_attention": Tap(attentions, len(attentions), read, needs=["q", "k"]),
    }


def projections(attentions: Sequence[Any]) -> dict[str, Tap]:
    """Taps `q` and `k`: projected queries and keys, heads not split."""
    count = len(attentions)
    return {
        "q": Tap([x.q_proj for x in attentions], count, output),
        "k": Tap([x.k_proj for x in attentions], count, output),
    }


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * d) -> (B, heads, N, d)."""
    split: Tensor = x.unflatten(-1, (heads, -1))
    return split.transpose(1, 2)
