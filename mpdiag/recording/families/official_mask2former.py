"""The official Mask2Former and MP-Former, as detectron2 builds them, in training too.

Their prediction heads are methods, which no hook sees, so that the modules which these call are
read: the output norm, the class and the mask embedding, and the pixel decoder's last convolution.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.recording.families.attention import masked_weights
from mpdiag.recording.families.deformable import locations, with_offsets
from mpdiag.recording.families.matchings import assignment
from mpdiag.recording.family import Family, is_a
from mpdiag.recording.tap import Call, Tap, Taps, first, output

# Without the one whose masks are mixed with the last layer's (...LYSmooth), that no config uses.
_DECODERS = ("MultiScaleMaskedTransformerDecoder", "MultiScaleMaskedTransformerDecoderMaskDN")


class OfficialMask2Former(Family):
    """MaskFormer of facebookresearch/Mask2Former and IDEA-Research/MP-Former, or its head alone.

    In training mode MP-Former's first queries are its MP part, and the criterion's matchings of
    all layers are read.
    """

    name = "official Mask2Former"

    def recognises(self, model: nn.Module) -> bool:
        if is_a(model, "mask2former", "MaskFormer"):
            model = model.get_submodule("sem_seg_head")
        return is_a(model, "mask2former", "MaskFormerHead") and is_a(
            model.get_submodule("predictor"), "mask2former", *_DECODERS
        )

    def taps(self, model: nn.Module) -> Taps:
        whole = is_a(model, "mask2former", "MaskFormer")
        head = model.get_submodule("sem_seg_head") if whole else model
        decoder = head.get_submodule("predictor")
        queries = len(decoder.get_parameter("query_feat.weight"))
        heads: Any = decoder.num_heads
        cross = list(decoder.get_submodule("transformer_cross_attention_layers").children())
        norm, classify, embed = (
            decoder.get_submodule(name) for name in ("decoder_norm", "class_embed", "mask_embed")
        )
        features = head.get_submodule("pixel_decoder.mask_features")

        def query(call: Call) -> Tensor:
            return first(call.args).transpose(0, 1)

        def masks(call: Call) -> Tensor:
            return torch.einsum("bqc,bchw->bqhw", output(call), call.seen["mask_features"])

        def visible(call: Call) -> Tensor:
            """The mask is (B * heads, N, cells), True where a head may not look."""
            hidden: Tensor = call.argument(2, "memory_mask").unflatten(0, (-1, heads))
            return ~hidden.all(1)

        both = {
            "query": ([norm], len(cross) + 1, query, ()),
            "class_logits": ([classify], len(cross) + 1, output, ()),
            "mask_logits": ([embed], len(cross) + 1, masks, ("mask_features",)),
            "attention_mask": (cross, len(cross), visible, ()),
        }
        encoder = head.get_submodule("pixel_decoder.transformer.encoder.layers").children()
        attentions = [layer.get_submodule("multihead_attn") for layer in cross]
        taps = {
            "mask_features": Tap([features], 1, output),
            "cross_attention": Tap(
                attentions, len(cross), lambda call: masked_weights(call)[:, :, -queries:]
            ),
            **with_offsets([layer.get_submodule("self_attn") for layer in encoder], _locations),
        }
        for name, (modules, count, read, needs) in both.items():
            taps[name] = Tap(modules, count, _matching_part(read, queries), needs)
            taps[f"piloted_{name}"] = Tap(modules, None, _mp_part(read, queries), needs)
        return taps | (_matchings(model.get_submodule("criterion")) if whole else {})


def _locations(call: Call) -> Tensor:
    """Where an MSDeformAttn samples: reference points, and the offsets that it has projected."""
    attention: Any = call.module
    shape = (attention.n_heads, attention.n_levels, attention.n_points, 2)
    return locations(
        call.argument(1, "reference_points"),
        call.seen["offsets"].unflatten(-1, shape),
        call.argument(3, "input_spatial_shapes").tolist(),
    )


def _matching_part(read: Any, queries: int) -> Any:
    """The last rows (B, N, ...) of what `read` gives."""
    return lambda call: read(call)[:, -queries:]


def _mp_part(read: Any, queries: int) -> Any:
    """The rows (B, P, ...) before them; no layer where there are none."""

    def rows(call: Call) -> list[Tensor]:
        piloted = read(call)[:, :-queries]
        return [piloted] if piloted.shape[1] else []

    return rows


def _matchings(criterion: nn.Module) -> dict[str, Tap]:
    """The criterion matches the last layer first, then the others in their order."""

    def matched(call: Call) -> list[Tensor]:
        """Those of this pass so far."""
        return [*call.seen.get("matched", ()), _assignment(call)]

    def in_order(call: Call) -> list[Tensor]:
        last, *others = call.seen["matched"]
        return [*others, last]

    return {
        "matched": Tap([criterion.get_submodule("matcher")], None, matched),
        "assignment": Tap([criterion], None, in_order, ["matched"]),
        "piloted_assignment": Tap([criterion], None, _hard_assignment),
    }


def _assignment(call: Call) -> Tensor:
    """(B, N) of one call of the matcher."""
    return assignment(call.output, call.argument(0, "outputs")["pred_logits"])


def _hard_assignment(call: Call) -> list[Tensor]:
    """(B, P) for each layer: a group has as many slots as the image with the most GT needs."""
    piloted: Mapping[str, Any] | None = call.argument(0, "outputs").get("dn_out")
    if not piloted:
        return []
    logits, groups = piloted["pred_logits"], piloted["dn_args"]
    slot = torch.arange(groups["pad_size"], device=logits.device) % groups["max_num"]
    counts = [len(target["labels"]) for target in call.argument(1, "targets")]
    rows = torch.stack([slot.where(slot < count, -1) for count in counts])
    return [rows] * (len(piloted["aux_outputs"]) + 1)
