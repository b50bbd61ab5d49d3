"""The segmentation models of the package `rfdetr`, in training and evaluation mode."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.recording.decoder_states import SIGMOID_NOTE
from mpdiag.recording.family import Family, is_instance_by_name
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall, first_output


class RfDetrFamily(Family):
    """LWDETR with a segmentation head (rfdetr/models/lwdetr.py), with any number of groups.

    In training, the queries of all groups pass the decoder at once, and the mask head returns
    factors of the masks. The hooks read the first group, which is that of inference, and multiply
    the factors. Layer 0 is the encoder's proposals; proposal n becomes query n.
    """

    name = "rfdetr"
    notes = ("the model also matches by boxes; this matching uses classes and masks", SIGMOID_NOTE)
    instance_rule = "sigmoid"

    def matches(self, model: nn.Module) -> bool:
        return (
            is_instance_by_name(model, "rfdetr", "LWDETR")
            and getattr(model, "segmentation_head", None) is not None
        )

    def hooks(self, model: Any) -> HookSpecs:
        head, transformer = model.segmentation_head, model.transformer
        layers = list(transformer.decoder.layers)
        classify_proposals = transformer.enc_out_class_embed[0]
        count = len(layers) + 1

        def first_group(tensor: Tensor) -> Tensor:
            return tensor[:, : model.num_queries]

        def proposals(call: ModuleCall) -> Tensor:
            logits: Tensor = classify_proposals(first_group(call.output[2]))
            return logits

        def classes(call: ModuleCall) -> list[Tensor]:
            layers = [call.required["proposals"], *map(first_group, call.output)]
            return [F.pad(logits, (0, 1)) for logits in layers]

        def masks(call: ModuleCall) -> Tensor:
            """Return one layer's masks; the head embeds each layer first, then the proposals."""
            queries, pixels = first_group(first_output(call)), call.required["pixels"]
            bias: Tensor = head.bias
            return torch.einsum("bnc,bchw->bnhw", queries, pixels) + bias

        def query(call: ModuleCall) -> list[Tensor]:
            before = [call.argument(0, "tgt")] if call.module is layers[0] else []
            return [first_group(state) for state in (*before, first_output(call))]

        return {
            "proposals": HookSpec([transformer], 1, proposals),
            "pixels": HookSpec([head.spatial_features_proj], count, first_output),
            "query": HookSpec(layers, count, query),
            "class_logits": HookSpec([model.class_embed], count, classes, ["proposals"]),
            "mask_logits": HookSpec(
                [head.query_features_proj],
                count,
                masks,
                requires=["pixels"],
                to_layers=lambda found: [found[-1], *found[:-1]],
            ),
        }
