"""GT-mask-guided learning of FastInst (He et al., CVPR 2023, section 3.4).

An alternative to the MP part: it changes the attention masks of the learnable queries instead of
adding queries. Differences to the official code (junjiehe96/FastInst): a cell of a coarse mask is
set where it touches the GT (`mpdiag.models.mask_noise.QueryMasks`), not by nearest-neighbour
interpolation; this model has no auxiliary queries and no pixel feature updates.
"""

import torch
from pydantic import Field
from torch import Tensor

from mpdiag.config import Strict
from mpdiag.losses import named_by_layer
from mpdiag.models.mask_noise import QueryMasks
from trainers.methods.batch import Losses
from trainers.methods.method import Method, TrainingStep


class GTMaskGuidedConfig(Strict):
    """Settings of GT-mask-guided learning."""

    weight: float = Field(1.0, ge=0, description="factor of the guided losses; FastInst uses 1")


class GTMaskGuided(Method):
    """Run each decoder layer again on its own output, with GT masks as attention masks.

    The GT of a query is its match in the last layer, in all layers. A query without GT attends to
    the whole image. The predictions of layers 1..L have the losses of the baseline.
    """

    name = "gt-mask-guided"
    description = "FastInst: run each layer again within the GT masks of its queries (section 3.4)"
    section = "gt_mask_guided"
    settings_type = GTMaskGuidedConfig
    layer_losses = ("loss_ce_guided", "loss_mask_guided", "loss_dice_guided")
    settings: GTMaskGuidedConfig

    def losses(self, step: TrainingStep) -> Losses:
        assignment = step.assignment[-1]
        with step.batch.autocast():
            class_logits, mask_logits = guided_predictions(step, assignment)
        losses = step.set_losses(
            class_logits,
            mask_logits,
            assignment.expand(len(class_logits), -1, -1),
            num_masks=step.normalizers["masks"],
            class_weight=step.normalizers["class_weight"],
        )
        weighted = {name: self.settings.weight * values for name, values in losses.items()}
        return named_by_layer(weighted, "_guided", first_layer=1)


def guided_predictions(step: TrainingStep, assignment: Tensor) -> tuple[Tensor, Tensor]:
    """Return (L, B, N, K + 1) class and (L, B, N, h, w) mask logits of the guided layers 1..L.

    Args:
        step: the ordinary forward pass.
        assignment: (B, N) GT index of each query, -1 for none.
    """
    decoder, (levels, mask_features) = step.model.decoder, step.output.features
    memory, position = decoder.embed_levels(levels)
    query_position = 0.0 if decoder.query_embed is None else decoder.query_embed.weight
    masks = QueryMasks([target["masks"] for target in step.batch.targets], assignment)
    states = []
    for index, layer in enumerate(decoder.layers):
        level = decoder.level_index(index)
        visible = masks.at((levels[level].shape[-2], levels[level].shape[-1])).flatten(2)
        visible = visible | ~visible.any(-1, keepdim=True)
        query = step.output.matching.queries[index + 1]
        states.append(layer(query, query_position, memory[level], position[level], visible, None))
    normed = decoder.norm(torch.stack(states))
    embeds = decoder.mask_embed(normed)
    mask_logits = torch.einsum("lbnc,bchw->lbnhw", embeds, mask_features)
    return decoder.class_embed(normed), mask_logits
