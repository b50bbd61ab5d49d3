"""The family of mmdetection's Mask2Former, on a small model with its call structure.

tests/mmdetection tests it on mmdetection's own model.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mpdiag

LAYERS, QUERIES, DIM, HEADS = 2, 3, 8, 2


class Attention(nn.Module):
    """mmcv's wrapper adds the positions and transposes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.attn = nn.MultiheadAttention(DIM, HEADS)
        self.weights = torch.empty(0)

    def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
        found, self.weights = self.attn(
            query=query, key=key, value=key, attn_mask=mask, average_attn_weights=False
        )
        return (query + found).transpose(0, 1)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cross_attn = Attention()

    def forward(self, query: Tensor, key: Tensor, cross_attn_mask: Tensor) -> Tensor:
        found: Tensor = self.cross_attn(query, key, cross_attn_mask)
        return found


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.post_norm = nn.LayerNorm(DIM)


class Mask2FormerHead(nn.Module):
    """The prediction head is a method."""

    def __init__(self) -> None:
        super().__init__()
        self.pixel_decoder = nn.ModuleDict({"mask_feature": nn.Conv2d(3, DIM, 1)})
        self.transformer_decoder = Decoder()
        self.query_feat = nn.Embedding(QUERIES, DIM)
        self.cls_embed = nn.Linear(DIM, 5)
        self.mask_embed = nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, DIM))

    def _forward_head(self, query: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = self.transformer_decoder.post_norm(query)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(state), features)
        hidden = masks.flatten(2) < 0
        hidden = hidden & ~hidden.all(-1, keepdim=True)
        return self.cls_embed(state), masks, hidden.repeat_interleave(HEADS, 0)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        features = self.pixel_decoder["mask_feature"](images)
        query = self.query_feat.weight.expand(len(images), -1, -1)
        cells = features.flatten(2).transpose(1, 2)
        found = [self._forward_head(query, features)]
        for layer in self.transformer_decoder.layers:
            query = layer(query=query, key=cells, cross_attn_mask=found[-1][2])
            found.append(self._forward_head(query, features))
        self.hidden = [hidden for _, _, hidden in found[:-1]]
        return [logits for logits, _, _ in found], [masks for _, masks, _ in found]


class Segmenter(nn.Module):
    """Calls the method of its head, not the module, in one of its modes."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, Mask2FormerHead())

    def forward(self, images: Tensor) -> Any:
        return self.get_submodule(self.name).forward(images)


@pytest.mark.parametrize("name", ["panoptic_head", "decode_head", "head itself"])
def test_all_layers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = "mmdet.models.dense_heads.mask2former_head"
    monkeypatch.setattr(Mask2FormerHead, "__module__", package)
    torch.manual_seed(0)
    model = Mask2FormerHead() if name == "head itself" else Segmenter(name)
    head: Any = model if name == "head itself" else model.get_submodule(name)
    images = torch.randn(2, 3, 4, 6)
    with torch.no_grad(), mpdiag.record(model, only=["*", "cross_attention"]) as recording:
        logits, masks = model(images)
    assert recording.family == "mmdetection Mask2Former"
    assert torch.equal(recording.class_logits, torch.stack(logits))
    assert torch.equal(recording.mask_logits, torch.stack(masks))
    hidden = torch.stack(head.hidden).unflatten(1, (2, HEADS))
    assert torch.equal(recording.attention_mask, ~hidden[:, :, 0])
    expected = [layer.cross_attn.weights for layer in head.transformer_decoder.layers]
    torch.testing.assert_close(recording.cross_attention, torch.stack(expected))
    again = head.cls_embed(head.transformer_decoder.post_norm(recording.query))
    torch.testing.assert_close(again, recording.class_logits)
