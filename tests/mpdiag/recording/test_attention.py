"""Recorded attention of mpdiag's model, against plain attention and the inputs of its kernels."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mpdiag.config import PilotConfig
from mpdiag.matching import Target
from mpdiag.models import Mask2Former, build_pilot_inputs
from mpdiag.ops import ms_deform_attn
from mpdiag.recording import record


def plain_softmax(query: Tensor, key: Tensor, visible: Tensor) -> Tensor:
    """Compute the softmax of one head of one image, query by query."""
    weights = torch.zeros(len(query), len(key), dtype=torch.float64)
    for n, q in enumerate(query.double()):
        cells = visible[n].nonzero()[:, 0].tolist()
        scores = torch.stack([q @ key[cell].double() / len(q) ** 0.5 for cell in cells])
        weights[n, cells] = scores.exp() / scores.exp().sum()
    return weights


@pytest.mark.parametrize("piloted", [False, True])
def test_cross_attention(
    small_model: Mask2Former,
    images: list[Tensor],
    targets: list[Target],
    monkeypatch: pytest.MonkeyPatch,
    piloted: bool,
) -> None:
    pilot = None
    if piloted:
        generators = [torch.Generator() for _ in targets]
        pilot = build_pilot_inputs(
            targets, PilotConfig(num_queries=6), layers=4, num_classes=3, generators=generators
        )
    calls: list[tuple[Tensor, Tensor]] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        if q.shape[2] != k.shape[2]:  # not self-attention
            calls.append((q, k))
        return kernel(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    with torch.no_grad(), record(small_model, only=["cross_*", "attention_mask"]) as recording:
        small_model(images, pilot)
    assert len(calls) == len(recording.cross_attention) == 4
    for (q, k), visible, weights in zip(
        calls, recording.attention_mask, recording.cross_attention, strict=True
    ):
        assert weights.shape == (2, 4, 6, k.shape[2])
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 6))
        assert not weights[~visible[:, None].expand_as(weights)].any()
        image, head = 1, 3
        plain = plain_softmax(q[image, head, -6:], k[image, head], visible[image])
        torch.testing.assert_close(weights[image, head].double(), plain, rtol=1e-4, atol=1e-6)


def test_sampling_locations(
    small_model: Mask2Former, images: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def spy(value: Tensor, shapes: Any, locations: Tensor, weights: Tensor) -> Tensor:
        seen.append(locations)
        return ms_deform_attn(value, shapes, locations, weights)

    monkeypatch.setattr("mpdiag.models.pixel_decoder.ms_deform_attn", spy)
    with torch.no_grad(), record(small_model, only=["sampling_locations"]) as recording:
        small_model(images)
    assert recording.layers("sampling_locations")[0].shape == (2, 84, 4, 3, 4, 2)
    for own, given in zip(recording.layers("sampling_locations"), seen, strict=True):
        assert torch.equal(own, given)


def test_attention_is_recorded_only_on_request(
    small_model: Mask2Former, images: list[Tensor]
) -> None:
    with torch.no_grad(), record(small_model) as recording:
        assert not small_model.decoder.layers[0].cross_attn._forward_hooks
        small_model(images)
    assert "query" in recording and "cross_attention" not in recording
