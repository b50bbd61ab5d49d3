"""mpdiag's own Mask2Former: its hook points, and what its attention does beside them."""

from typing import Any

from torch import Tensor, nn

from mpdiag.recording.families.attention import packed_weights
from mpdiag.recording.families.deformable import locations, with_offsets
from mpdiag.recording.families.hook_points import HookPoints, is_ours
from mpdiag.recording.tap import Call, Tap, Taps


class Mask2Former(HookPoints):
    """mpdiag.models.Mask2Former; MP-Former is the same model."""

    name = "mpdiag Mask2Former"

    def recognises(self, model: nn.Module) -> bool:
        return is_ours(model)

    def taps(self, model: Any) -> Taps:
        cross = [layer.cross_attn for layer in model.decoder.layers]
        queries = model.config.num_queries

        def weights(call: Call) -> Tensor:
            """Of the matching part, which follows the MP part."""
            query, key, _, visible = call.args
            return packed_weights(
                call.module,
                query[:, -queries:],
                key,
                call.module.heads,
                visible[:, None, -queries:],
            )

        return {
            **super().taps(model),
            "cross_attention": Tap(cross, len(cross), weights),
            **with_offsets([layer.self_attn for layer in model.pixel_decoder.layers], _sampled),
        }


def _sampled(call: Call) -> Tensor:
    reference, shapes = call.args[2], call.args[3]
    shape = (call.module.heads, len(shapes), call.module.points, 2)
    everywhere = reference[None, :, None].expand(-1, -1, len(shapes), -1)
    return locations(everywhere, call.seen["offsets"].unflatten(-1, shape), shapes)
