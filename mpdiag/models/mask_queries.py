"""GT masks as MP queries instead of attention masks: two alternatives of MP-Former, appendix D.

They follow DN-DETR, which turns GT boxes into queries. The paper reports that neither works.
"""

import torch
from torch import Tensor, nn

from mpdiag.errors import ConfigError
from mpdiag.models.mask_piloting import PilotInputs, class_embeddings

CODE_SIDE = 16


def feature_mean(
    pilot: PilotInputs, label_embed: nn.Embedding | None, mask_features: Tensor
) -> tuple[Tensor, None]:
    """Return the mean of the mask features inside each noised GT mask (first alternative)."""
    masks = pilot.noised_masks((mask_features.shape[-2], mask_features.shape[-1])).flatten(2)
    weight = masks.to(mask_features.dtype)
    total = torch.einsum("bps,bcs->bpc", weight, mask_features.flatten(2))
    return total / weight.sum(-1, keepdim=True).clamp(min=1), None


def detached_feature_mean(
    pilot: PilotInputs, label_embed: nn.Embedding | None, mask_features: Tensor
) -> tuple[Tensor, None]:
    """Return `feature_mean` without a gradient to the mask features, as in the official code."""
    return feature_mean(pilot, label_embed, mask_features.detach())


class MaskCode(nn.Module):
    """MLP from a noised GT mask at 16 x 16 to a position query (second alternative).

    The content query is the class embedding, as DN-DETR combines box and label. The paper does not
    give the depth of the MLP; this one has two layers.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(CODE_SIDE**2, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(
        self, pilot: PilotInputs, label_embed: nn.Embedding | None, mask_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        content, _ = class_embeddings(pilot, label_embed, mask_features)
        masks = pilot.noised_masks((CODE_SIDE, CODE_SIDE)).flatten(2)
        position: Tensor = self.layers(masks.to(mask_features.dtype))
        return content, position * (pilot.gt >= 0)[..., None]


def check_feature_mean(hidden_dim: int, mask_dim: int) -> None:
    """Check that mask features can be queries of the decoder.

    Raises:
        ConfigError: the two widths differ.
    """
    if hidden_dim != mask_dim:
        raise ConfigError(
            f"pilot.query_input = feature-mean: model.mask_dim ({mask_dim}) must equal "
            f"model.hidden_dim ({hidden_dim}), because mask features become queries"
        )
