"""Families whose sources are not packages, on small modules with their names and calls.

The classes predict as the sources do, and return the predictions, with which the recording is
compared.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mpdiag
from mpdiag.config import LossConfig
from mpdiag.recording.family import family_of

BLOCKS, QUERIES, DIM, GRID = 2, 3, 8, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.mlp = nn.LayerNorm(DIM), nn.Linear(DIM, DIM)


class EoMT(nn.Module):
    """tue-mps/eomt: the model calls the parts of its blocks itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.backbone = nn.Module()
        self.encoder.backbone.blocks = nn.ModuleList(Block() for _ in range(BLOCKS + 1))
        self.encoder.backbone.norm = nn.LayerNorm(DIM)
        self.num_q, self.num_blocks, self.masked_attn_enabled = QUERIES, BLOCKS, True
        self.q, self.class_head = nn.Embedding(QUERIES, DIM), nn.Linear(DIM, 5)

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        queries, pixels = x[:, :QUERIES], x[:, QUERIES:].transpose(1, 2)
        return (queries @ pixels).unflatten(2, (GRID, GRID)), self.class_head(queries)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        found = []
        norm = self.encoder.backbone.norm
        for index, block in enumerate(self.encoder.backbone.blocks):
            if index == 1:
                x = torch.cat([self.q.weight.expand(len(x), -1, -1), x], 1)
            if index >= 1 and self.masked_attn_enabled:
                found.append(self._predict(norm(x)))
            x = x + block.mlp(block.norm1(x))
        found.append(self._predict(norm(x)))
        return [masks for masks, _ in found], [classes for _, classes in found]


class MaskDINODecoder(nn.Module):
    """IDEA-Research/MaskDINO; in training, denoising queries come first."""

    def __init__(self, two_stage: bool) -> None:
        super().__init__()
        self.num_queries, self.num_layers = QUERIES, BLOCKS
        self.two_stage = self.initial_pred = two_stage
        self.enc_output_norm, self.decoder_norm = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.class_embed, self.mask_embed = nn.Linear(DIM, 5), nn.Linear(DIM, DIM)
        self.query_feat = nn.Embedding(QUERIES, DIM)
        self.layers = nn.ModuleList(nn.Linear(DIM, DIM) for _ in range(BLOCKS))

    def heads(self, queries: Tensor, features: Tensor, masks: bool) -> Any:
        state = self.decoder_norm(queries)
        classes = self.class_embed(state)
        if not masks:
            return classes, None
        return classes, torch.einsum("bqc,bchw->bqhw", self.mask_embed(state), features)

    def forward(self, features: Tensor) -> list[Any]:
        queries, found = self.query_feat.weight.expand(len(features), -1, -1), []
        if self.two_stage:
            memory = self.enc_output_norm(features.flatten(2).transpose(1, 2))
            best = self.class_embed(memory).max(-1).values.topk(QUERIES).indices
            queries = memory.gather(1, best[..., None].expand(-1, -1, DIM))
            self.heads(queries, features, True)
        if self.training:
            queries = torch.cat([torch.zeros(len(features), 2, DIM), queries], 1)
        if self.initial_pred:
            found.append(self.heads(queries, features, self.training))
        states = []
        for layer in self.layers:
            queries = queries + layer(queries)
            states.append(self.decoder_norm(queries))  # the decoder has the norm, too
        for index, state in enumerate(states):
            found.append(self.heads(state, features, self.training or index == BLOCKS - 1))
        return found


class MaskDINOHead(nn.Module):
    def __init__(self, two_stage: bool) -> None:
        super().__init__()
        self.pixel_decoder = nn.Module()
        self.pixel_decoder.mask_features = nn.Conv2d(3, DIM, 1)
        self.predictor = MaskDINODecoder(two_stage)

    def forward(self, images: Tensor) -> list[Any]:
        found: list[Any] = self.predictor(self.pixel_decoder.mask_features(images))
        return found


EoMT.__module__ = "models.eomt"
MaskDINODecoder.__module__ = MaskDINOHead.__module__ = "maskdino.modeling"


@pytest.mark.parametrize("masked", [True, False])
def test_eomt_predicts_before_each_of_its_last_blocks(masked: bool) -> None:
    torch.manual_seed(0)
    model, tokens = EoMT(), torch.randn(2, GRID**2, DIM)
    expected = model(tokens)
    model.masked_attn_enabled = masked
    with mpdiag.record(model) as recording:
        output = model(tokens)
    assert len(output[0]) == (BLOCKS + 1 if masked else 1)
    assert recording.mask_logits.shape == (BLOCKS + 1, 2, QUERIES, GRID, GRID)
    for layer in range(BLOCKS + 1):
        assert torch.equal(recording.mask_logits[layer], expected[0][layer])
        assert torch.equal(recording.class_logits[layer], expected[1][layer])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("two_stage", [True, False])
def test_mask_dino_has_the_matching_queries_of_all_layers(two_stage: bool, training: bool) -> None:
    torch.manual_seed(0)
    model, images = MaskDINOHead(two_stage).train(training), torch.randn(2, 3, GRID, GRID)
    with mpdiag.record(model) as recording:
        found = model(images)
    assert len(recording.layers("mask_logits")) == len(found) == BLOCKS + two_stage
    for layer, (classes, masks) in enumerate(found):
        own = recording.class_logits[layer]
        assert torch.equal(own[..., :-1], classes[:, -QUERIES:])
        assert not own[..., -1].any()  # of no-object
        if masks is not None:
            torch.testing.assert_close(recording.mask_logits[layer], masks[:, -QUERIES:])
    assert (found[0][1] is None) == (not training)
    monitor = mpdiag.LayerMonitor(model, every=1)
    assert monitor.family == "official Mask DINO"
    assert family_of(model).loss_config(model, "") == LossConfig()
