"""transformers' OneFormer: a masked-attention decoder whose heads are called in every layer."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from mpdiag.recording.assignments import matcher_hooks
from mpdiag.recording.attention_weights import masked_weights, visible_cells
from mpdiag.recording.families.transformers_mask2former import MASK2FORMER_LOSS_KEYS
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall, first_output
from mpdiag.recording.intervention_points import InterventionPoints, hook_attention_masks
from mpdiag.recording.sampling_locations import transformers_sampling_hooks
from mpdiag.recording.transformers_family import TransformersFamily, matching_part


class TransformersOneFormerFamily(TransformersFamily):
    """OneFormerForUniversalSegmentation (transformers, modeling_oneformer.py).

    Its last query is the task token, which predicts like the others. Its processor also takes the
    name of the task as text.
    """

    name = "transformers OneFormer"
    model_classes: ClassVar = {"oneformer": "OneFormerForUniversalSegmentation"}
    loss_keys = MASK2FORMER_LOSS_KEYS
    # The file has class names that only training needs, and would be downloaded.
    processor_options: ClassVar = {"class_info_file": None}
    text_processor = "OneFormerProcessor"

    def hooks(self, model: Any) -> HookSpecs:
        transformer = model.model.transformer_module
        decoder = transformer.decoder
        pixels = model.model.pixel_level_module
        layers = list(decoder.layers)
        cross = [layer.cross_attn.multihead_attn for layer in layers]
        encoder = pixels.decoder.encoder.layers

        def query(call: ModuleCall) -> list[Tensor]:
            """Return (B, N, C): the input of the first layer, and the output of each layer."""
            before = [call.kwargs["output"]] if call.module is layers[0] else []
            return [state.transpose(0, 1) for state in (*before, first_output(call))]

        count = len(layers) + 1
        specs = {
            "mask_features": HookSpec([pixels], 1, lambda call: call.output.decoder_last_feature),
            "query": HookSpec(layers, count, query),
            "class_logits": HookSpec([decoder.class_embed], count, first_output),
            "mask_logits": HookSpec(
                [decoder.mask_embed], count, _masks, requires=["mask_features"]
            ),
            "attention_mask": HookSpec(cross, len(layers), visible_cells),
            "cross_attention": HookSpec(cross, len(layers), masked_weights),
            **matcher_hooks(model.criterion.matcher, count, last_first=True),
            **transformers_sampling_hooks([layer.self_attn for layer in encoder]),
        }
        return matching_part(specs, transformer.queries_embedder.num_embeddings)

    def intervention_points(self, model: Any) -> InterventionPoints:
        transformer = model.model.transformer_module
        layers = list(transformer.decoder.layers)
        cross = [layer.cross_attn.multihead_attn for layer in layers]
        return InterventionPoints(
            num_queries=transformer.queries_embedder.num_embeddings,
            num_layers=len(layers),
            hook_masks=hook_attention_masks(cross, cross[0].num_heads),
            self_attention=[layer.self_attn.self_attn for layer in layers],
        )


def _masks(call: ModuleCall) -> Tensor:
    return torch.einsum("bqc,bchw->bqhw", call.output, call.required["mask_features"])
