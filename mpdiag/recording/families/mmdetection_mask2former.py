"""Mask2Former of mmdetection and mmsegmentation, in training and evaluation mode.

Its prediction head is a method, which forward hooks can't see. The hooks read the modules that it
calls: output norm, class and mask embedding, and the pixel decoder's last convolution
(mmdetection 3.3, `mask2former_head.py` and `mask2former_layers.py`).
"""

from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.recording.attention_weights import masked_weights
from mpdiag.recording.family import Family, is_instance_by_name
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall, first_output


class MMDetectionMask2FormerFamily(Family):
    """A detector of mmdetection or a segmenter of mmsegmentation, or its head alone."""

    name = "mmdetection Mask2Former"

    def matches(self, model: nn.Module) -> bool:
        return _head(model) is not None

    def hooks(self, model: Any) -> HookSpecs:
        head: Any = _head(model)
        decoder = head.transformer_decoder
        layers = list(decoder.layers)
        num_heads = layers[0].cross_attn.num_heads
        attentions = [layer.cross_attn.attn for layer in layers]

        def masks(call: ModuleCall) -> Tensor:
            features = call.required["mask_features"]
            return torch.einsum("bqc,bchw->bqhw", first_output(call), features)

        def visible(call: ModuleCall) -> Tensor:
            """Invert the mask, which is (B * heads, N, cells) and True where it hides a cell."""
            hidden: Tensor = call.kwargs["cross_attn_mask"].unflatten(0, (-1, num_heads))
            return ~hidden.all(1)

        predictions = len(layers) + 1
        return {
            "query": HookSpec([decoder.post_norm], predictions, lambda call: call.args[0]),
            "class_logits": HookSpec([head.cls_embed], predictions, first_output),
            "mask_features": HookSpec([head.pixel_decoder.mask_feature], 1, first_output),
            "mask_logits": HookSpec([head.mask_embed], predictions, masks, ["mask_features"]),
            "attention_mask": HookSpec(layers, len(layers), visible),
            "cross_attention": HookSpec(attentions, len(layers), masked_weights),
        }


def _head(model: nn.Module) -> nn.Module | None:
    """Return the head of a detector or segmenter, or the head that `model` is."""
    children = dict(model.named_children())
    for module in (model, children.get("panoptic_head"), children.get("decode_head")):
        if module is not None and is_instance_by_name(module, "mmdet", "Mask2FormerHead"):
            return module
    return None
