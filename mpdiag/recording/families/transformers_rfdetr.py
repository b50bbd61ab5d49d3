"""transformers' RF-DETR for segmentation: masks of all layers, classes of the last alone."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.recording.families.decoder_states import SIGMOIDS, DecoderStates
from mpdiag.recording.family import Family, is_a
from mpdiag.recording.tap import Call, Tap, Taps, output


class TransformersRfDetr(Family):
    """RfDetrForInstanceSegmentation (transformers, modeling_rf_detr.py).

    Layer 0 is what the encoder proposes; proposal n becomes query n.
    """

    name = "transformers RF-DETR"
    notes = (
        "classes of layers before the last were predicted by the model's own head, which the "
        "recorder showed the queries of each layer",
        SIGMOIDS,
    )

    def recognises(self, model: nn.Module) -> bool:
        return is_a(model, "transformers", "RfDetrForInstanceSegmentation")

    def taps(self, model: Any) -> Taps:
        detector = model.model
        whole = detector.model  # all but the heads
        decoder = whole.decoder
        layers = list(decoder.layers)
        states = DecoderStates(layers, decoder.layernorm, normed_between=False)
        sampling = [layer.cross_attn.attn for layer in layers]

        def features(call: Call) -> Tensor:
            """What the mask head sees of the image before its first block."""
            height, width = call.argument(0, "pixel_values").shape[-2:]
            size = (height // model.downsample_ratio, width // model.downsample_ratio)
            return F.interpolate(call.output.backbone_features, size, mode="bilinear")

        def classes(call: Call) -> list[Tensor]:
            proposed = detector.predict_encoder_class_logits(call.output.enc_outputs_class)
            heads = [detector.class_embed(x) for x in call.output.intermediate_hidden_states]
            return [F.pad(logits, (0, 1)) for logits in (proposed, *heads)]

        def masks(call: Call) -> Tensor:
            """The mask head embeds the proposals first, then the queries layer by layer."""
            pixels = call.seen.get("refined", call.seen["features"])
            product = torch.matmul(call.output, pixels.flatten(2))
            bias: Tensor = model.segmentation_bias
            logits: Tensor = product.unflatten(-1, pixels.shape[-2:])
            return logits + bias

        after = len(layers) + 1
        refine, embed = (
            model.get_submodule(x) for x in ("spatial_features_proj", "query_features_proj")
        )
        return {
            "features": Tap([whole], 1, features),
            "refined": Tap([refine], len(layers), output),
            "query": Tap(layers, after, states.raw),
            "class_logits": Tap([whole], after, classes),
            "mask_logits": Tap([embed], after, masks, needs=["features", "refined"]),
            "sampling_locations": Tap(
                sampling, len(layers), lambda call: call.argument(4, "sampling_locations")
            ),
        }
