"""The masked-attention decoder: N queries, L layers, predictions M^0..M^L."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.config import ModelConfig
from mpdiag.models.attention import Attention, sine_position
from mpdiag.models.mask_piloting import Pilot
from mpdiag.models.pixel_decoder import LEVELS
from mpdiag.recording.points import HookPoint


@dataclass(slots=True)
class Predictions:
    """Predictions of all layers; h and w are a quarter of the padded image's.

    `class_logits` is (L + 1, B, N, K + 1), no-object last; `mask_logits` is (L + 1, B, N, h, w).
    """

    class_logits: Tensor
    mask_logits: Tensor


@dataclass(slots=True)
class Output:
    """What a forward pass gives: the matching part, and the MP part when one was fed."""

    matching: Predictions
    piloted: Predictions | None


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; a norm after each."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.cross_attn = Attention(dim, config.heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attn = Attention(dim, config.heads)
        self.self_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.feedforward_dim)
        self.linear2 = nn.Linear(config.feedforward_dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self,
        query: Tensor,
        query_position: Tensor | float,
        memory: Tensor,
        position: Tensor,
        visible: Tensor,
        self_visible: Tensor | None,
    ) -> Tensor:
        attended = self.cross_attn(query + query_position, memory + position, memory, visible)
        query = self.cross_norm(query + attended)
        at = query + query_position
        query = self.self_norm(query + self.self_attn(at, at, query, self_visible))
        output: Tensor = self.feedforward_norm(query + self.linear2(self.linear1(query).relu()))
        return output


class HookPoints(nn.Module):
    """Where the recorder listens; each point is passed once for each layer, in layer order.

    `query`, `class_logits` and `mask_logits` are passed for layers 0..L, `attention_mask` (bool,
    True where a query may attend) for decoder layers 1..L. The `piloted_` points see the MP part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = HookPoint()
        self.class_logits = HookPoint()
        self.mask_logits = HookPoint()
        self.attention_mask = HookPoint()
        self.piloted_query = HookPoint()
        self.piloted_class_logits = HookPoint()
        self.piloted_mask_logits = HookPoint()
        self.piloted_attention_mask = HookPoint()


class MaskEmbed(nn.Module):
    """Three linear layers from a query to its mask embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dims = [config.hidden_dim] * 3 + [config.mask_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        output: Tensor = self.layers[-1](x)
        return output


class Decoder(nn.Module):
    """Refines queries layer by layer; each layer attends within the masks of the last.

    It looks at strides 32, 16, 8 in turn, or with `feature_maps="all-large"` at stride 8 alone.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.all_large = config.feature_maps == "all-large"
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(dim)
        self.query_feat = nn.Embedding(config.num_queries, dim)
        self.query_embed = nn.Embedding(config.num_queries, dim) if config.query_position else None
        self.label_embed = nn.Embedding(config.num_classes, dim) if config.label_embedding else None
        self.level_embed = nn.Embedding(LEVELS, dim)
        self.class_embed = nn.Linear(dim, config.num_classes + 1)
        self.mask_embed = MaskEmbed(config)
        self.points = HookPoints()

    def forward(
        self, levels: list[Tensor], mask_features: Tensor, pilot: Pilot | None = None
    ) -> Output:
        """Levels of strides 32, 16, 8 and mask features (B, mask_dim, h, w) -> all predictions."""
        batch = len(mask_features)
        memory, position = self._memory(levels)
        # A mask at a coarse resolution is the product with the coarse features: interpolation and
        # product commute, and the full-size masks are only needed once, for the predictions.
        coarse = [
            F.interpolate(
                mask_features.detach(), size=x.shape[-2:], mode="bilinear", align_corners=False
            )
            for x in levels
        ]
        query = self.query_feat.weight.expand(batch, -1, -1)
        query_position: Tensor | float = 0.0
        if self.query_embed is not None:
            query_position = self.query_embed.weight.expand(batch, -1, -1)
        piloted = 0
        if pilot is not None:
            content, placed = pilot.feed(pilot, self.label_embed, mask_features)
            piloted = content.shape[1]
            query = torch.cat([content.to(query.dtype), query], dim=1)
            query_position = _join_positions(placed, piloted, query_position, query)
        self_visible = pilot.self_visible(self.query_feat.num_embeddings) if pilot else None

        states, embeds = [], []
        for index in range(len(self.layers) + 1):
            query = self._pass(query, piloted, "query")
            states.append(self.norm(query))
            embeds.append(self.mask_embed(states[-1]))
            if index == len(self.layers):
                break
            level = self.level_of(index)
            visible = self._visible(embeds[-1], coarse[level], pilot, index, piloted)
            query = self.layers[index](
                query, query_position, memory[level], position[level], visible, self_visible
            )
        return self._predict(torch.stack(states), torch.stack(embeds), mask_features, piloted)

    def level_of(self, index: int) -> int:
        """Which of the levels (strides 32, 16, 8) decoder layer `index` attends to."""
        return LEVELS - 1 if self.all_large else index % LEVELS

    def _memory(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        memory = [
            x.flatten(2).transpose(1, 2) + embed
            for x, embed in zip(levels, self.level_embed.weight, strict=True)
        ]
        position = [sine_position(x.shape[-2], x.shape[-1], x.shape[1], x.device) for x in levels]
        return memory, position

    def _pass(self, tensor: Tensor, piloted: int, name: str) -> Tensor:
        """Send a (B, P + N, ...) tensor past the hook points of its two parts."""
        matching: Tensor = getattr(self.points, name)(tensor[:, piloted:])
        if not piloted:
            return matching
        pilot: Tensor = getattr(self.points, f"piloted_{name}")(tensor[:, :piloted])
        return torch.cat([pilot, matching], dim=1)

    @torch.no_grad()
    def _visible(
        self, embed: Tensor, features: Tensor, pilot: Pilot | None, index: int, piloted: int
    ) -> Tensor:
        """(B, P + N, h * w) bool: where decoder layer `index` may look.

        The last prediction where its logit is >= 0, or the GT masks in a piloted layer; a row that
        would see nothing sees everything (also in the MP part).
        """
        visible = torch.einsum("bnc,bcs->bns", embed, features.flatten(2)) >= 0
        truth = pilot.visible(index, (features.shape[-2], features.shape[-1])) if pilot else None
        if truth is not None:
            visible = torch.cat([truth, visible[:, piloted:]], dim=1)
        visible = visible | ~visible.any(-1, keepdim=True)
        return self._pass(visible, piloted, "attention_mask")

    def _predict(
        self, states: Tensor, embeds: Tensor, mask_features: Tensor, piloted: int
    ) -> Output:
        """(L + 1, B, P + N, C) normed queries and mask embeddings -> predictions of both parts."""
        points = self.points
        class_logits = self.class_embed(states)

        def part(rows: slice, prefix: str) -> Predictions:
            masks = torch.einsum("lbnc,bchw->lbnhw", embeds[:, :, rows], mask_features)
            classes = class_logits[:, :, rows]
            return Predictions(
                _pass_layers(getattr(points, f"{prefix}class_logits"), classes),
                _pass_layers(getattr(points, f"{prefix}mask_logits"), masks),
            )

        matching = part(slice(piloted, None), "")
        return Output(matching, part(slice(piloted), "piloted_") if piloted else None)


def _join_positions(
    placed: Tensor | None, piloted: int, position: Tensor | float, query: Tensor
) -> Tensor | float:
    """Position queries of both parts, (B, P + N, C); zeros for the part that has none."""
    if placed is None and not isinstance(position, Tensor):
        return position
    joined = torch.zeros_like(query)
    if placed is not None:
        joined[:, :piloted] = placed
    joined[:, piloted:] = position
    return joined


def _pass_layers(point: HookPoint, layers: Tensor) -> Tensor:
    """Send each layer of an (L + 1, ...) tensor past a hook point; copy only if one was changed."""
    each = layers.unbind()
    passed = [point(layer) for layer in each]
    if all(new is old for new, old in zip(passed, each, strict=True)):
        return layers
    return torch.stack(passed)
