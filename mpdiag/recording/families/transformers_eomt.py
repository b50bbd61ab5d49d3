"""transformers' EoMT: queries join the tokens of a plain ViT for its last blocks."""

from typing import Any

import torch
from torch import Tensor, nn

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
        rows, columns = model.grid_size

        def predictions(call: Call) -> list[tuple[Tensor, Tensor]]:
            return [model.predict(state) for state in states.normed(call)]

        def visible(call: Call) -> Tensor:
            """(B, N, cells) of a (B, heads, tokens, tokens) mask, negative where hidden."""
            tokens, mask = call.argument(0, "hidden_states"), call.argument(1, "attention_mask")
            if mask is None:
                shape = (len(tokens), queries, rows * columns)
                return torch.ones(shape, dtype=torch.bool, device=tokens.device)
            shown: Tensor = mask[:, 0, :queries, -rows * columns :] >= 0
            return shown

        return {
            "predictions": Tap(layers, blocks, predictions),
            "query": Tap(
                layers, blocks + 1, lambda call: [x[:, :queries] for x in states.raw(call)]
            ),
            "class_logits": Tap(
                layers,
                blocks + 1,
                lambda call: [classes for _, classes in call.seen["predictions"]],
                needs=["predictions"],
            ),
            "mask_logits": Tap(
                layers,
                blocks + 1,
                lambda call: [masks for masks, _ in call.seen["predictions"]],
                needs=["predictions"],
            ),
            "attention_mask": Tap(layers, blocks, visible),
            **matching_taps(model.criterion.matcher, blocks + 1, last_first=False),
        }
