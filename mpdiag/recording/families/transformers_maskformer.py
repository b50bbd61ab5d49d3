"""transformers' MaskFormer: its heads see the last layer alone, here they see the others too."""

import torch
from torch import Tensor, nn

from mpdiag.recording.family import Family, is_a
from mpdiag.recording.tap import Call, Tap, Taps, output


class TransformersMaskFormer(Family):
    """MaskFormerForInstanceSegmentation (transformers, modeling_maskformer.py).

    Every layer is read as the official MaskFormer trains it: the decoder's output norm, then the
    heads. transformers' own auxiliary outputs leave the norm out before the last layer.
    """

    name = "transformers MaskFormer"
    notes = (
        "masks and classes of all layers were predicted by the model's own heads, which the "
        "recorder showed the queries of each layer; the model itself predicts from the last",
        "layer 0 is predicted from queries that are all zero, so all its masks are the same",
    )

    def recognises(self, model: nn.Module) -> bool:
        return is_a(model, "transformers", "MaskFormerForInstanceSegmentation")

    def taps(self, model: nn.Module) -> Taps:
        decoder = model.get_submodule("model.transformer_module.decoder")
        layers = list(decoder.get_submodule("layers").children())
        norm = decoder.get_submodule("layernorm")
        classify, embed = (model.get_submodule(x) for x in ("class_predictor", "mask_embedder"))

        def states(call: Call) -> list[Tensor]:
            """(B, N, C): what went into the first layer, and what came out of each."""
            before = [call.argument(0, "hidden_states")] if call.module is layers[0] else []
            return [*before, output(call)]

        def classes(call: Call) -> list[Tensor]:
            return [classify(norm(state)) for state in states(call)]

        def masks(call: Call) -> list[Tensor]:
            features = call.seen["mask_features"]
            return [
                torch.einsum("bqc,bchw->bqhw", embed(norm(state)), features)
                for state in states(call)
            ]

        after = len(layers) + 1
        pixels = model.get_submodule("model.pixel_level_module")
        return {
            "mask_features": Tap([pixels], 1, lambda call: call.output[1]),
            "query": Tap(layers, after, states),
            "class_logits": Tap(layers, after, classes),
            "mask_logits": Tap(layers, after, masks, needs=["mask_features"]),
        }
