"""transformers' RF-DETR for segmentation: masks of all layers, classes of the last layer alone."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.recording.decoder_states import SIGMOID_NOTE, DecoderStates
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall, first_output
from mpdiag.recording.transformers_family import TransformersFamily


class TransformersRfDetrFamily(TransformersFamily):
    """RfDetrForInstanceSegmentation (transformers, modeling_rf_detr.py).

    Layer 0 is the encoder's proposals; proposal n becomes query n.
    """

    name = "transformers RF-DETR"
    notes = (
        "the recorder applied the model's own class head to the queries of the layers before the "
        "last",
        SIGMOID_NOTE,
    )
    model_classes: ClassVar = {"rf_detr": "RfDetrForInstanceSegmentation"}
    instance_rule = "sigmoid"
    loss_keys: ClassVar = {
        "class_cost": "class_weight",
        "mask_class_loss_coefficient": "mask_weight",
        "mask_dice_loss_coefficient": "dice_weight",
    }

    def hooks(self, model: Any) -> HookSpecs:
        detector = model.model
        body = detector.model  # all but the heads
        decoder = body.decoder
        layers = list(decoder.layers)
        states = DecoderStates(layers, decoder.layernorm, normed_between=False)
        attentions = [layer.cross_attn.attn for layer in layers]

        def features(call: ModuleCall) -> Tensor:
            """Return the image features before the first block of the mask head."""
            height, width = call.argument(0, "pixel_values").shape[-2:]
            size = (height // model.downsample_ratio, width // model.downsample_ratio)
            return F.interpolate(call.output.backbone_features, size, mode="bilinear")

        def classes(call: ModuleCall) -> list[Tensor]:
            proposals = detector.predict_encoder_class_logits(call.output.enc_outputs_class)
            heads = [detector.class_embed(x) for x in call.output.intermediate_hidden_states]
            return [F.pad(logits, (0, 1)) for logits in (proposals, *heads)]

        def masks(call: ModuleCall) -> Tensor:
            """Return one layer's masks; the head embeds proposals first, then each layer."""
            pixels = call.required.get("refined", call.required["features"])
            product = torch.matmul(call.output, pixels.flatten(2))
            bias: Tensor = model.segmentation_bias
            logits: Tensor = product.unflatten(-1, pixels.shape[-2:])
            return logits + bias

        count = len(layers) + 1
        refine, embed = (
            model.get_submodule(x) for x in ("spatial_features_proj", "query_features_proj")
        )
        return {
            "features": HookSpec([body], 1, features),
            "refined": HookSpec([refine], len(layers), first_output),
            "query": HookSpec(layers, count, states.raw),
            "class_logits": HookSpec([body], count, classes),
            "mask_logits": HookSpec([embed], count, masks, requires=["features", "refined"]),
            "sampling_locations": HookSpec(
                attentions, len(layers), lambda call: call.argument(4, "sampling_locations")
            ),
        }
