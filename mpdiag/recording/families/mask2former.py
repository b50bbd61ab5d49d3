"""mpdiag's own Mask2Former: its hook points, attention weights and sampling locations."""

from typing import Any

from torch import Tensor, nn

from mpdiag.recording.attention_weights import packed_weights
from mpdiag.recording.families.hook_points import HookPointFamily, is_mpdiag_mask2former
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall
from mpdiag.recording.intervention_points import InterventionPoints
from mpdiag.recording.sampling_locations import sampling_hooks, sampling_locations


class Mask2FormerFamily(HookPointFamily):
    """mpdiag.models.Mask2Former, which is also the model of MP-Former."""

    name = "mpdiag Mask2Former"

    def matches(self, model: nn.Module) -> bool:
        return is_mpdiag_mask2former(model)

    def hooks(self, model: Any) -> HookSpecs:
        cross = [layer.cross_attn for layer in model.decoder.layers]
        num_queries = model.config.num_queries

        def weights(call: ModuleCall) -> Tensor:
            """Read the matching part, whose queries follow those of the MP part."""
            query, key, _, visible = call.args
            return packed_weights(
                call.module,
                query[:, -num_queries:],
                key,
                call.module.num_heads,
                visible[:, None, -num_queries:],
            )

        encoder = [layer.self_attn for layer in model.pixel_decoder.layers]
        return {
            **super().hooks(model),
            "cross_attention": HookSpec(cross, len(cross), weights),
            **sampling_hooks(encoder, _sampling_locations),
        }

    def intervention_points(self, model: Any) -> InterventionPoints:
        decoder = model.decoder
        return InterventionPoints(
            num_queries=model.config.num_queries,
            num_layers=len(decoder.layers),
            hook_masks=lambda replace: [
                decoder.hook_points.attention_mask.register_forward_hook(
                    lambda module, args, visible: replace(visible)
                )
            ],
            self_attention=[layer.self_attn for layer in decoder.layers],
        )


def _sampling_locations(call: ModuleCall) -> Tensor:
    reference, shapes = call.args[2], call.args[3]
    shape = (call.module.num_heads, len(shapes), call.module.num_points, 2)
    # The decoder repeats the point of a query for all of its offsets.
    reference = reference[None, :, None, :2].expand(-1, -1, len(shapes), -1)
    return sampling_locations(reference, call.required["offsets"].unflatten(-1, shape), shapes)
