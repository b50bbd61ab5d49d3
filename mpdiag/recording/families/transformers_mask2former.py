"""transformers' Mask2Former: the decoder predicts in every layer."""

from typing import Any, ClassVar

from torch import Tensor

from mpdiag.recording.assignments import matcher_hooks
from mpdiag.recording.attention_weights import masked_weights, visible_cells
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall, first_output
from mpdiag.recording.intervention_points import InterventionPoints, hook_attention_masks
from mpdiag.recording.sampling_locations import transformers_sampling_hooks
from mpdiag.recording.transformers_family import TransformersFamily, matching_part

MASK2FORMER_LOSS_KEYS = {
    "class_weight": "class_weight",
    "mask_weight": "mask_weight",
    "dice_weight": "dice_weight",
    "no_object_weight": "no_object_weight",
    "train_num_points": "num_points",
    "oversample_ratio": "oversample_ratio",
    "importance_sample_ratio": "importance_sample_ratio",
}
"""Key of Mask2FormerConfig -> field of LossConfig; EoMT and OneFormer have the same keys."""


class TransformersMask2FormerFamily(TransformersFamily):
    """Mask2FormerForUniversalSegmentation (transformers, modeling_mask2former.py)."""

    name = "transformers Mask2Former"
    model_classes: ClassVar = {"mask2former": "Mask2FormerForUniversalSegmentation"}
    loss_keys = MASK2FORMER_LOSS_KEYS

    def hooks(self, model: Any) -> HookSpecs:
        transformer = model.model.transformer_module
        decoder = transformer.decoder
        layers = list(decoder.layers)
        cross = [layer.cross_attn for layer in layers]
        encoder = model.model.pixel_level_module.decoder.encoder.layers
        count = len(layers) + 1
        specs = {
            # The norm and both predictors are called once per layer, with (N, B, C).
            "query": HookSpec([decoder.layernorm], count, _query),
            "class_logits": HookSpec([model.class_predictor], count, first_output),
            "mask_logits": HookSpec([decoder.mask_predictor], count, first_output),
            "attention_mask": HookSpec(cross, len(layers), visible_cells),
            "cross_attention": HookSpec(cross, len(layers), masked_weights),
            **matcher_hooks(model.criterion.matcher, count, last_first=True),
            **transformers_sampling_hooks([layer.self_attn for layer in encoder]),
        }
        return matching_part(specs, transformer.queries_embedder.num_embeddings)

    def intervention_points(self, model: Any) -> InterventionPoints:
        transformer = model.model.transformer_module
        layers = list(transformer.decoder.layers)
        cross = [layer.cross_attn for layer in layers]
        return InterventionPoints(
            num_queries=transformer.queries_embedder.num_embeddings,
            num_layers=len(layers),
            hook_masks=hook_attention_masks(cross, cross[0].num_heads),
            self_attention=[layer.self_attn for layer in layers],
        )


def _query(call: ModuleCall) -> Tensor:
    queries: Tensor = call.args[0]
    return queries.transpose(0, 1)
