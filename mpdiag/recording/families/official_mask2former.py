"""The official Mask2Former and MP-Former, built by detectron2, in training and evaluation mode.

Their prediction heads are methods, which forward hooks can't see. The hooks read the modules that
these methods call: output norm, class and mask embedding, and the pixel decoder's last convolution.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mpdiag.recording.assignments import dense_assignment
from mpdiag.recording.attention_weights import masked_weights
from mpdiag.recording.family import Family, is_instance_by_name
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall, first_output
from mpdiag.recording.intervention_points import InterventionPoints, hook_attention_masks
from mpdiag.recording.sampling_locations import sampling_hooks, sampling_locations

if TYPE_CHECKING:
    from mpdiag.config import LossConfig

# Not ...LYSmooth, which mixes masks with those of the last layer and which no config uses.
_DECODERS = ("MultiScaleMaskedTransformerDecoder", "MultiScaleMaskedTransformerDecoderMaskDN")
Reader = Callable[[ModuleCall], Tensor]


class OfficialMask2FormerFamily(Family):
    """MaskFormer of facebookresearch/Mask2Former and IDEA-Research/MP-Former, or its head alone.

    In training mode the first queries of MP-Former are its MP part, and the hooks read the
    criterion's matching of every layer. The model normalises and pads its images itself.
    """

    name = "official Mask2Former"

    def matches(self, model: nn.Module) -> bool:
        if is_instance_by_name(model, "mask2former", "MaskFormer"):
            model = model.get_submodule("sem_seg_head")
        return is_instance_by_name(model, "mask2former", "MaskFormerHead") and is_instance_by_name(
            model.get_submodule("predictor"), "mask2former", *_DECODERS
        )

    def loss_config(self, model: Any, source: str) -> "LossConfig":
        from mpdiag.config import LossConfig  # needs pydantic; recording does not

        matcher = model.criterion.matcher
        return LossConfig(
            class_weight=matcher.cost_class,
            mask_weight=matcher.cost_mask,
            dice_weight=matcher.cost_dice,
            num_points=matcher.num_points,
        )

    def intervention_points(self, model: Any) -> InterventionPoints:
        decoder = _head(model).predictor
        cross = list(decoder.transformer_cross_attention_layers)
        return InterventionPoints(
            num_queries=decoder.num_queries,
            num_layers=len(cross),
            hook_masks=hook_attention_masks(cross, decoder.num_heads, "memory_mask"),
            self_attention=[layer.self_attn for layer in decoder.transformer_self_attention_layers],
        )

    def hooks(self, model: nn.Module) -> HookSpecs:
        head = _head(model)
        whole = head is not model
        decoder = head.get_submodule("predictor")
        num_queries = len(decoder.get_parameter("query_feat.weight"))
        num_heads: Any = decoder.num_heads
        cross = list(decoder.get_submodule("transformer_cross_attention_layers").children())
        norm, classify, embed = (
            decoder.get_submodule(name) for name in ("decoder_norm", "class_embed", "mask_embed")
        )
        features = head.get_submodule("pixel_decoder.mask_features")

        def query(call: ModuleCall) -> Tensor:
            queries: Tensor = call.args[0]
            return queries.transpose(0, 1)

        def masks(call: ModuleCall) -> Tensor:
            features = call.required["mask_features"]
            return torch.einsum("bqc,bchw->bqhw", first_output(call), features)

        def visible(call: ModuleCall) -> Tensor:
            """Invert the mask, which is (B * heads, N, cells) and True where it hides a cell."""
            hidden: Tensor = call.argument(2, "memory_mask").unflatten(0, (-1, num_heads))
            return ~hidden.all(1)

        both_parts = {
            "query": HookSpec([norm], len(cross) + 1, query),
            "class_logits": HookSpec([classify], len(cross) + 1, first_output),
            "mask_logits": HookSpec([embed], len(cross) + 1, masks, ["mask_features"]),
            "attention_mask": HookSpec(cross, len(cross), visible),
        }
        encoder = head.get_submodule("pixel_decoder.transformer.encoder.layers").children()
        sampled = [layer.get_submodule("self_attn") for layer in encoder]
        attentions = [layer.get_submodule("multihead_attn") for layer in cross]
        specs = {
            "mask_features": HookSpec([features], 1, first_output),
            "cross_attention": HookSpec(
                attentions, len(cross), lambda call: masked_weights(call)[:, :, -num_queries:]
            ),
            **sampling_hooks(sampled, _sampling_locations),
        }
        for name, spec in both_parts.items():
            specs[name] = replace(spec, read=_matching_part(spec.read, num_queries))
            piloted = replace(spec, num_layers=None, read=_mp_part(spec.read, num_queries))
            specs[f"piloted_{name}"] = piloted
        return specs | (_assignment_hooks(model.get_submodule("criterion")) if whole else {})


def _head(model: Any) -> Any:
    """Return the MaskFormerHead of a MaskFormer, or the head that `model` is."""
    return model.sem_seg_head if is_instance_by_name(model, "mask2former", "MaskFormer") else model


def _sampling_locations(call: ModuleCall) -> Tensor:
    attention: Any = call.module
    shape = (attention.n_heads, attention.n_levels, attention.n_points, 2)
    return sampling_locations(
        call.argument(1, "reference_points"),
        call.required["offsets"].unflatten(-1, shape),
        call.argument(3, "input_spatial_shapes").tolist(),
    )


def _matching_part(read: Reader, num_queries: int) -> Reader:
    """Return a reader of the last queries: (B, N, ...)."""
    return lambda call: read(call)[:, -num_queries:]


def _mp_part(read: Reader, num_queries: int) -> Callable[[ModuleCall], list[Tensor]]:
    """Return a reader of the queries before them: (B, P, ...); no layer if there are none."""

    def rows(call: ModuleCall) -> list[Tensor]:
        piloted = read(call)[:, :-num_queries]
        return [piloted] if piloted.shape[1] else []

    return rows


def _assignment_hooks(criterion: nn.Module) -> dict[str, HookSpec]:
    """Return hooks of the matchings; the criterion matches the last layer first."""

    def matched(call: ModuleCall) -> list[Tensor]:
        """Return the assignments of this pass up to this call of the matcher."""
        logits = call.argument(0, "outputs")["pred_logits"]
        return [*call.required.get("matched", ()), dense_assignment(call.output, logits)]

    def in_order(call: ModuleCall) -> list[Tensor]:
        last, *others = call.required["matched"]
        return [*others, last]

    return {
        "matched": HookSpec([criterion.get_submodule("matcher")], None, matched),
        "assignment": HookSpec([criterion], None, in_order, ["matched"]),
        "piloted_assignment": HookSpec([criterion], None, _piloted_assignment),
    }


def _piloted_assignment(call: ModuleCall) -> list[Tensor]:
    """Return (B, P) per layer; a group has as many queries as the image with the most GT."""
    piloted: Mapping[str, Any] | None = call.argument(0, "outputs").get("dn_out")
    if not piloted:
        return []
    logits, groups = piloted["pred_logits"], piloted["dn_args"]
    slot = torch.arange(groups["pad_size"], device=logits.device) % groups["max_num"]
    counts = [len(target["labels"]) for target in call.argument(1, "targets")]
    rows = torch.stack([slot.where(slot < count, -1) for count in counts])
    return [rows] * (len(piloted["aux_outputs"]) + 1)
