"""The masked-attention decoder: N queries, L layers, predictions M^0..M^L."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.config import ModelConfig
from mpdiag.models.attention import MultiHeadAttention, sine_position
from mpdiag.models.mask_piloting import PilotInputs
from mpdiag.models.pixel_decoder import LEVELS
from mpdiag.recording.hook_point import HookPoint


@dataclass(slots=True)
class Predictions:
    """Predictions of layers 0..L.

    Attributes:
        class_logits: (L + 1, B, N, K + 1), no-object last.
        mask_logits: (L + 1, B, N, h, w), a quarter of the padded image's size.
        queries: (L + 1, B, N, C) output of each layer, before the norm; layer 0 is the input.
    """

    class_logits: Tensor
    mask_logits: Tensor
    queries: Tensor


@dataclass(slots=True)
class Mask2FormerOutput:
    """Predictions of the matching part, and of the MP part if the forward pass had one.

    `features` are the inputs of the decoder: (B, C, h, w) feature maps of strides 32, 16 and 8, and
    the mask features of stride 4.
    """

    matching: Predictions
    piloted: Predictions | None
    features: tuple[list[Tensor], Tensor]


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and feed-forward network, each followed by a norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.cross_attn = MultiHeadAttention(dim, config.num_heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attn = MultiHeadAttention(dim, config.num_heads)
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
        placed = query + query_position
        query = self.self_norm(query + self.self_attn(placed, placed, query, self_visible))
        output: Tensor = self.feedforward_norm(query + self.linear2(self.linear1(query).relu()))
        return output


class DecoderHookPoints(nn.Module):
    """Hook points of the recorder. A forward pass calls each once per layer, in layer order.

    `query`, `class_logits` and `mask_logits` are called for layers 0..L, `attention_mask` (bool,
    True where a query may attend) for decoder layers 1..L. The `piloted_` points get the MP part.
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
    """MLP of three linear layers from a query to its mask embedding."""

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
    """Masked-attention decoder: each layer attends within the masks that the previous one predicts.

    Layers use the feature maps of strides 32, 16 and 8 in turn, or with `feature_maps="all-large"`
    that of stride 8 only. With `masked_attention=False`, queries attend everywhere, except MP
    queries with GT masks.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.all_large = config.feature_maps == "all-large"
        self.masked_attention = config.masked_attention
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(dim)
        self.query_feat = nn.Embedding(config.num_queries, dim)
        self.query_embed = nn.Embedding(config.num_queries, dim) if config.query_position else None
        self.label_embed = nn.Embedding(config.num_classes, dim) if config.label_embedding else None
        self.level_embed = nn.Embedding(LEVELS, dim)
        self.class_embed = nn.Linear(dim, config.num_classes + 1)
        self.mask_embed = MaskEmbed(config)
        self.hook_points = DecoderHookPoints()

    def forward(
        self, levels: list[Tensor], mask_features: Tensor, pilot: PilotInputs | None = None
    ) -> Mask2FormerOutput:
        """Predict all layers.

        Args:
            levels: (B, C, h, w) feature maps of strides 32, 16 and 8.
            mask_features: (B, mask_dim, h, w) of stride 4.
            pilot: inputs of the MP part.
        """
        batch = len(mask_features)
        memory, position = self.embed_levels(levels)
        # Interpolation and the product with the embeddings commute, so attention masks come from
        # downsampled features; full-size masks are only computed once, for the predictions.
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
            content, position_query = pilot.query_input(pilot, self.label_embed, mask_features)
            piloted = content.shape[1]
            query = torch.cat([content.to(query.dtype), query], dim=1)
            query_position = _join_positions(position_query, piloted, query_position, query)
        self_visible = pilot.self_visible(self.query_feat.num_embeddings) if pilot else None

        queries, states, embeds = [], [], []
        for index in range(len(self.layers) + 1):
            query = self._call_hooks(query, piloted, "query")
            queries.append(query)
            states.append(self.norm(query))
            embeds.append(self.mask_embed(states[-1]))
            if index == len(self.layers):
                break
            level = self.level_index(index)
            visible = self._visible(embeds[-1], coarse[level], pilot, index, piloted)
            query = self.layers[index](
                query, query_position, memory[level], position[level], visible, self_visible
            )
        stacked = torch.stack(queries), torch.stack(states), torch.stack(embeds)
        matching, pilot_predictions = self._predict(*stacked, mask_features, piloted)
        return Mask2FormerOutput(matching, pilot_predictions, (levels, mask_features))

    def level_index(self, index: int) -> int:
        """Return which of the levels (strides 32, 16, 8) decoder layer `index` attends to."""
        return LEVELS - 1 if self.all_large else index % LEVELS

    def embed_levels(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return (B, h * w, C) keys of cross-attention and their position embeddings, per level."""
        memory = [
            x.flatten(2).transpose(1, 2) + embed
            for x, embed in zip(levels, self.level_embed.weight, strict=True)
        ]
        position = [sine_position(x.shape[-2], x.shape[-1], x.shape[1], x.device) for x in levels]
        return memory, position

    def _call_hooks(self, tensor: Tensor, piloted: int, name: str) -> Tensor:
        """Call the hook points of both parts on a (B, P + N, ...) tensor."""
        matching: Tensor = getattr(self.hook_points, name)(tensor[:, piloted:])
        if not piloted:
            return matching
        pilot: Tensor = getattr(self.hook_points, f"piloted_{name}")(tensor[:, :piloted])
        return torch.cat([pilot, matching], dim=1)

    @torch.no_grad()
    def _visible(
        self, embed: Tensor, features: Tensor, pilot: PilotInputs | None, index: int, piloted: int
    ) -> Tensor:
        """Return the (B, P + N, h * w) bool attention mask of decoder layer `index`.

        True where the previous prediction's logit is >= 0, or in the GT masks of MP queries. A row
        without any True is set to True everywhere, also in the MP part.
        """
        if self.masked_attention:
            visible = torch.einsum("bnc,bcs->bns", embed, features.flatten(2)) >= 0
        else:
            cells = features.shape[-2] * features.shape[-1]
            visible = torch.ones(*embed.shape[:2], cells, dtype=torch.bool, device=embed.device)
        gt_masks = pilot.visible(index, (features.shape[-2], features.shape[-1])) if pilot else None
        if gt_masks is not None:
            visible = torch.cat([gt_masks, visible[:, piloted:]], dim=1)
        visible = visible | ~visible.any(-1, keepdim=True)
        return self._call_hooks(visible, piloted, "attention_mask")

    def _predict(
        self, queries: Tensor, states: Tensor, embeds: Tensor, mask_features: Tensor, piloted: int
    ) -> tuple[Predictions, Predictions | None]:
        """Predict both parts from (L + 1, B, P + N, C) queries, normed queries, mask embeddings."""
        points = self.hook_points
        class_logits = self.class_embed(states)

        def part(rows: slice, prefix: str) -> Predictions:
            masks = torch.einsum("lbnc,bchw->lbnhw", embeds[:, :, rows], mask_features)
            classes = class_logits[:, :, rows]
            return Predictions(
                _call_hook_per_layer(getattr(points, f"{prefix}class_logits"), classes),
                _call_hook_per_layer(getattr(points, f"{prefix}mask_logits"), masks),
                queries[:, :, rows],
            )

        matching = part(slice(piloted, None), "")
        return matching, part(slice(piloted), "piloted_") if piloted else None


def _join_positions(
    pilot_position: Tensor | None, piloted: int, position: Tensor | float, query: Tensor
) -> Tensor | float:
    """Return (B, P + N, C) position queries of both parts; zeros for a part that has none."""
    if pilot_position is None and not isinstance(position, Tensor):
        return position
    joined = torch.zeros_like(query)
    if pilot_position is not None:
        joined[:, :piloted] = pilot_position
    joined[:, piloted:] = position
    return joined


def _call_hook_per_layer(point: HookPoint, layers: Tensor) -> Tensor:
    """Call a hook point on each layer of (L + 1, ...); copy only if a hook changed a layer."""
    before = layers.unbind()
    after = [point(layer) for layer in before]
    if all(new is old for new, old in zip(after, before, strict=True)):
        return layers
    return torch.stack(after)
