"""What the queries of the MP part are: the paper's class embeddings, and two ways that failed.

Appendix D of MP-Former tells of two attempts to feed GT masks through queries instead of attention
masks, as DN-DETR feeds boxes. "It did not work" with either; they are here to show it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mpdiag.errors import ConfigError

if TYPE_CHECKING:
    from mpdiag.models.mask_piloting import Pilot

Feed = Callable[["Pilot", nn.Embedding | None, Tensor], tuple[Tensor, Tensor | None]]
"""(pilot, class embeddings, mask features (B, C, h, w)) -> content and position queries (B, P, C).

No position means zeros. Slots that are padding have zeros in both.
"""

CODE_SIDE = 16


def class_embeddings(
    pilot: "Pilot", label_embed: nn.Embedding | None, mask_features: Tensor
) -> tuple[Tensor, None]:
    """Embeddings of the GT's classes, after label noise (section 4.4)."""
    if label_embed is None:
        raise ValueError("an MP part needs a model with label_embedding=True")
    content: Tensor = label_embed(pilot.labels.clamp(min=0)) * (pilot.labels >= 0)[..., None]
    return content, None


def feature_mean(
    pilot: "Pilot", label_embed: nn.Embedding | None, mask_features: Tensor
) -> tuple[Tensor, None]:
    """The mean of the mask features within each noised GT mask (appendix D, first way)."""
    masks = pilot.noised((mask_features.shape[-2], mask_features.shape[-1])).flatten(2)
    weight = masks.to(mask_features.dtype)
    total = torch.einsum("bps,bcs->bpc", weight, mask_features.flatten(2))
    return total / weight.sum(-1, keepdim=True).clamp(min=1), None


class MaskCode(nn.Module):
    """A noised GT mask at 16 x 16, flattened, through an MLP as position query (appendix D, second).

    The content stays the class embedding, as DN-DETR pairs box and label. The paper does not say
    how deep the MLP is; this one has two layers.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(CODE_SIDE**2, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(
        self, pilot: "Pilot", label_embed: nn.Embedding | None, mask_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        content, _ = class_embeddings(pilot, label_embed, mask_features)
        masks = pilot.noised((CODE_SIDE, CODE_SIDE)).flatten(2)
        position: Tensor = self.layers(masks.to(mask_features.dtype))
        return content, position * (pilot.gt >= 0)[..., None]


def check_feature_mean(hidden_dim: int, mask_dim: int) -> None:
    """Refuse a model whose mask features can't be its queries.

    Raises:
        ConfigError: the two differ in width.
    """
    if hidden_dim != mask_dim:
        raise ConfigError(
            f"pilot.feed = feature-mean: takes mask features as queries, so model.mask_dim "
            f"({mask_dim}) must be model.hidden_dim ({hidden_dim})"
        )
