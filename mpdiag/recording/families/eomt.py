"""tue-mps/eomt's own EoMT: queries are tokens of a plain ViT in its last blocks."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from mpdiag.recording.decoder_states import HEADS_APPLIED_NOTE
from mpdiag.recording.family import Family, is_instance_by_name
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall


class EomtFamily(Family):
    """EoMT (models/eomt.py), whose blocks are run by the model itself, module by module.

    The model predicts before each of the last blocks only while its masks guide attention. The
    recorder always predicts there, from the input of the block's first norm.
    """

    name = "EoMT"
    notes = (HEADS_APPLIED_NOTE,)

    def matches(self, model: nn.Module) -> bool:
        return is_instance_by_name(model, "models", "EoMT")

    def hooks(self, model: Any) -> HookSpecs:
        backbone = model.encoder.backbone
        before = [block.norm1 for block in list(backbone.blocks)[-model.num_blocks :]]
        modules, count = [*before, model], len(before) + 1

        def predictions(call: ModuleCall) -> tuple[Tensor, Tensor]:
            """Return masks and classes before a block, or those of the model after the last."""
            if call.module is model:
                masks, classes = call.output
                return masks[-1], classes[-1]
            found: tuple[Tensor, Tensor] = model._predict(backbone.norm(call.args[0]))
            return found

        def prediction(index: int) -> Callable[[ModuleCall], Tensor]:
            return lambda call: call.required["predictions"][index]

        return {
            "predictions": HookSpec(modules, count, predictions),
            "class_logits": HookSpec(modules, count, prediction(1), requires=["predictions"]),
            "mask_logits": HookSpec(modules, count, prediction(0), requires=["predictions"]),
        }
