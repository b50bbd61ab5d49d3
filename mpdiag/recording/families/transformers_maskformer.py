"""transformers' MaskFormer: the recorder applies its heads to every layer."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from mpdiag.recording.attention_weights import cross_attention_hooks
from mpdiag.recording.decoder_states import HEADS_APPLIED_NOTE, ZERO_QUERIES_NOTE, DecoderStates
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall
from mpdiag.recording.transformers_family import TransformersFamily


class TransformersMaskFormerFamily(TransformersFamily):
    """MaskFormerForInstanceSegmentation (transformers, modeling_maskformer.py).

    Every layer is read as the official MaskFormer trains it: the decoder's output norm, then the
    heads. transformers' own auxiliary outputs omit the norm before the last layer. The model
    matches by a focal mask cost, for which LossConfig has no term.
    """

    name = "transformers MaskFormer"
    notes = (HEADS_APPLIED_NOTE, ZERO_QUERIES_NOTE)
    model_classes: ClassVar = {"maskformer": "MaskFormerForInstanceSegmentation"}

    def hooks(self, model: Any) -> HookSpecs:
        decoder = model.model.transformer_module.decoder
        layers = list(decoder.layers)
        states = DecoderStates(layers, decoder.layernorm, decoder.config.auxiliary_loss)
        classify, embed = (model.get_submodule(x) for x in ("class_predictor", "mask_embedder"))

        def classes(call: ModuleCall) -> list[Tensor]:
            return [classify(state) for state in states.normed(call)]

        def masks(call: ModuleCall) -> list[Tensor]:
            features = call.required["mask_features"]
            return [
                torch.einsum("bqc,bchw->bqhw", embed(state), features)
                for state in states.normed(call)
            ]

        count = len(layers) + 1
        pixels = model.model.pixel_level_module
        return {
            "mask_features": HookSpec([pixels], 1, lambda call: call.output[1]),
            "query": HookSpec(layers, count, states.raw),
            "class_logits": HookSpec(layers, count, classes),
            "mask_logits": HookSpec(layers, count, masks, requires=["mask_features"]),
            **cross_attention_hooks([layer.encoder_attn for layer in layers]),
        }
