"""The official Mask DINO, built by detectron2, in training and evaluation mode."""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.recording.decoder_states import SIGMOID_NOTE
from mpdiag.recording.family import Family, is_instance_by_name
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall, first_output

if TYPE_CHECKING:
    from mpdiag.config import LossConfig


class OfficialMaskDinoFamily(Family):
    """MaskDINO of IDEA-Research/MaskDINO, or its head alone.

    Its class head is called for the image features, from which the proposals are selected, for the
    proposals, for the queries before the first layer (`INITIAL_PRED`), and after each layer. Layer
    0 are the queries before the first layer. In training, denoising queries come first.
    """

    name = "official Mask DINO"
    notes = (
        "the model also matches by boxes; this matching uses classes and masks",
        "in evaluation mode the model predicts masks of the last layer alone; the recorder applied "
        "its mask head to the queries of every layer",
        SIGMOID_NOTE,
    )
    instance_rule = "sigmoid"

    def matches(self, model: nn.Module) -> bool:
        if is_instance_by_name(model, "maskdino", "MaskDINO"):
            model = model.get_submodule("sem_seg_head")
        return is_instance_by_name(model, "maskdino", "MaskDINOHead") and is_instance_by_name(
            model.get_submodule("predictor"), "maskdino", "MaskDINODecoder"
        )

    def loss_config(self, model: Any, source: str) -> "LossConfig":
        from mpdiag.config import LossConfig

        if not hasattr(model, "criterion"):
            return LossConfig()
        matcher = model.criterion.matcher
        return LossConfig(
            class_weight=matcher.cost_class,
            mask_weight=matcher.cost_mask,
            dice_weight=matcher.cost_dice,
            num_points=matcher.num_points,
        )

    def hooks(self, model: Any) -> HookSpecs:
        whole = is_instance_by_name(model, "maskdino", "MaskDINO")
        head = model.sem_seg_head if whole else model
        decoder: Any = head.predictor
        num_queries, layers = decoder.num_queries, decoder.num_layers
        # Calls of the class head besides that for the image features.
        calls = layers + bool(decoder.two_stage) + bool(decoder.initial_pred)
        count = min(calls, layers + 1)

        def of_features(call: ModuleCall) -> bool:
            return call.args[0] is call.required.get("image_features")

        def classes(call: ModuleCall) -> list[Tensor]:
            if of_features(call):
                return []
            logits = first_output(call)[:, -num_queries:]
            return [F.pad(logits, (0, 1))]

        def masks(call: ModuleCall) -> list[Tensor]:
            if of_features(call):
                return []
            queries = decoder.mask_embed(call.args[0][:, -num_queries:])
            return [torch.einsum("bqc,bchw->bqhw", queries, call.required["mask_features"])]

        def last(found: list[Tensor]) -> list[Tensor]:
            return found[-count:]

        features = head.get_submodule("pixel_decoder.mask_features")
        required = ["mask_features"]
        specs = {"mask_features": HookSpec([features], 1, first_output)}
        if decoder.two_stage:
            specs["image_features"] = HookSpec([decoder.enc_output_norm], 1, first_output)
            required.append("image_features")
        classify = [decoder.class_embed]
        return specs | {
            "class_logits": HookSpec(classify, calls, classes, required, to_layers=last),
            "mask_logits": HookSpec(classify, calls, masks, required, to_layers=last),
        }
