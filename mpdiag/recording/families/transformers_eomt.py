"""transformers' EoMT: queries join the tokens of a plain ViT for its last blocks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.recording.families.attention import attention_weights, projections, split_heads
from mpdiag.recording.families.decoder_states import APPLIED_HEADS, DecoderStates
from mpdiag.recording.families.matchings import matching_taps
from mpdiag.recording.family import Family, is_a
from mpdiag.recording.tap import Call, Tap, Taps


class TransformersEomt(Family):
    """EomtForUniversalSegmentation and its form with DINOv3 (modeling_eomt.py, _eomt_dinov3.py).

    The model predicts before each of the last blocks only while its masks still guide attention
    (`attn_mask_probs`); the recorder predicts there in any case.
    """

    name = "transformers EoMT"
    notes: tuple[str, ...] = (APPLIED_HEADS,)

    def recognises(self, model: nn.Module) -> bool:
        return is_a(
            model,
            "transformers",
            "EomtForUniversalSegmentation",
            "EomtDinov3ForUniversalSegmentation",
        )

    def taps(self, model: Any) -> Taps:
        queries, blocks = model.config.num_queries, model.config.num_blocks
        layers = list(model.layers)[-blocks:]
        states = DecoderStates(layers, model.layernorm, normed_between=False)
        attentions = [layer.attention for layer in layers]
        rows, columns = model.grid_size

        def predictions(call: Call) -> list[tuple[Tensor, Tensor]]:
            return [model.predict(state) for state in states.normed(call)]

        def part(index: int) -> Callable[[Call], list[Tensor]]:
            return lambda call: [both[index] for both in call.seen["predictions"]]

        def query(call: Call) -> list[Tensor]:
            return [tokens[:, :queries] for tokens in states.raw(call)]

        def visible(call: Call) -> Tensor:
            """(B, N, cells) of a (B, heads, tokens, tokens) mask, negative where hidden."""
            tokens, mask = call.argument(0, "hidden_states"), call.argument(1, "attention_mask")
            if mask is None:
                shape = (len(tokens), queries, rows * columns)
                return torch.ones(shape, dtype=torch.bool, device=tokens.device)
            shown: Tensor = mask[:, 0, :queries, -rows * columns :] >= 0
            return shown

        def weights(call: Call) -> Tensor:
            """Of what queries give to patches; all 0 where they see none."""
            heads = call.module.num_heads
            asking = split_heads(call.seen["q"][:, :queries], heads)
            patches = split_heads(call.seen["k"][:, -rows * columns :], heads)
            position = call.argument(2, "position_embeddings")
            if position is not None:  # of DINOv3, on patches alone
                patches = _rotated(patches, *position)
            return attention_weights(asking, patches, visible(call)[:, None]).nan_to_num(0.0)

        after = blocks + 1
        return {
            "predictions": Tap(layers, blocks, predictions),
            "query": Tap(layers, after, query),
            "class_logits": Tap(layers, after, part(1), needs=["predictions"]),
            "mask_logits": Tap(layers, after, part(0), needs=["predictions"]),
            "attention_mask": Tap(layers, blocks, visible),
            **projections(attentions),
            "cross_attention": Tap(attentions, blocks, weights, needs=["q", "k"]),
            **matching_taps(model.criterion.matcher, after, last_first=False),
        }


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, heads, cells, d) with rotary position embedding (Su et al., RoFormer), in two halves."""
    one, other = x.chunk(2, -1)
    return x * cos + torch.cat([-other, one], -1) * sin
