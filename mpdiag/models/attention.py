"""Sine position encoding and multi-head attention of the decoder layers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sine_position(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Return the (height * width, channels) sine position encoding, y in the first half, then x.

    DETR's normalised form: cell indices 1..n divided by n, times 2 pi, with temperature 10,000.
    """
    half = channels // 2
    exponent = 2 * (torch.arange(half, device=device) // 2) / half
    frequency = 10000.0**exponent

    def encode(size: int) -> Tensor:
        index = torch.arange(1, size + 1, device=device, dtype=torch.float32)
        angle = (index / (size + 1e-6) * 2 * math.pi)[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)

    y = encode(height)[:, None].expand(-1, width, -1)
    x = encode(width)[None].expand(height, -1, -1)
    return torch.cat([y, x], -1).flatten(0, 1)


class MultiHeadAttention(nn.Module):
    """Multi-head attention by torch's fused kernel, with the names of nn.MultiheadAttention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
        """Attend from (B, N, C) queries to (B, S, C) keys.

        `visible` is a (B, N, S) bool mask, True where attention is allowed; None allows all.
        """
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if visible is None else visible[:, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output
