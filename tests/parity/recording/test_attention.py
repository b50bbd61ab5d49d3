"""Cross-attention and sampling locations, compared with values that the library computes."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from mpdiag.recording import record

MASKED = ["transformers Mask2Former", "transformers OneFormer"]
DENSE = ["transformers MaskFormer", "transformers DETR", "transformers Conditional DETR"]

JOINT = ["transformers EoMT", "transformers EoMT DINOv3", "transformers VideoMT"]


def recorded(tiny: Any) -> list[Tensor]:
    with record(tiny.model, only=["cross_attention"]) as recording:
        tiny.run()
    layers: list[Tensor] = recording.layers("cross_attention")
    for weights in layers:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    return layers


@pytest.mark.parametrize("family", MASKED, indirect=True)
def test_masked_attention(tiny: Any) -> None:
    """torch's attention module also returns the mean over its heads."""
    means: list[Tensor] = []
    for layer in tiny.model.model.transformer_module.decoder.layers:
        attention = getattr(layer.cross_attn, "multihead_attn", layer.cross_attn)
        attention.register_forward_hook(lambda *call: means.append(call[2][1]))
    layers = recorded(tiny)
    with record(tiny.model, only=["attention_mask"]) as recording:
        tiny.run()
    for index, weights in enumerate(layers):
        visible = recording.attention_mask[index][:, None].expand_as(weights)
        assert not weights[~visible].any() and (weights[visible] > 0).all()
        torch.testing.assert_close(weights.mean(1), means[index])


@pytest.mark.parametrize("family", DENSE, indirect=True)
def test_attention_of_a_fused_kernel(tiny: Any, family: str) -> None:
    """The kernel returns no weights; the eager implementation of the library does."""
    layers = recorded(tiny)
    plain: list[Tensor] = []
    decoder = next(m for m in tiny.model.modules() if type(m).__name__.endswith("DetrDecoder"))
    for layer in decoder.layers:
        layer.encoder_attn.register_forward_hook(lambda *call: plain.append(call[2][1]))
    tiny.run()
    assert plain[0] is None
    plain.clear()
    tiny.model.set_attn_implementation("eager")
    tiny.run()
    for weights, own in zip(layers, plain, strict=True):
        torch.testing.assert_close(weights, own, rtol=1e-4, atol=1e-6)
    if family != "transformers MaskFormer":  # the second image is padded at the right
        assert not layers[0][1].unflatten(-1, (2, 3))[..., 2].any()


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("family", JOINT, indirect=True)
def test_attention_to_patches_among_other_tokens(tiny: Any, guided: bool) -> None:
    """Compare with the weights of queries over patches in the eager implementation."""
    tiny.model.attn_mask_probs.fill_(float(guided))
    with record(tiny.model, only=["cross_attention", "attention_mask"]) as recording:
        tiny.run()
    plain: list[Tensor] = []
    for layer in tiny.model.layers[1:]:
        layer.attention.register_forward_hook(lambda *call: plain.append(call[2][1]))
    tiny.model.set_attn_implementation("eager")
    tiny.run()
    for index, weights in enumerate(recording.layers("cross_attention")):
        own = plain[index][:, :, :5, -16:]
        expected = (own / own.sum(-1, keepdim=True)).nan_to_num(0.0)
        torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-6)
        visible = recording.attention_mask[index][:, None].expand_as(weights)
        assert not weights[~visible].any()
        torch.testing.assert_close(weights.sum(-1), visible.any(-1).float())


@pytest.mark.parametrize("family", MASKED, indirect=True)
def test_sampling_locations(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[type(tiny.model).__module__]
    name = "multi_scale_deformable_attention"
    kernel, seen = getattr(module, name), []

    def spy(value: Tensor, shapes: Any, locations: Tensor, weights: Tensor) -> Any:
        seen.append(locations)
        return kernel(value, shapes, locations, weights)

    monkeypatch.setattr(module, name, spy)
    with record(tiny.model, only=["sampling_locations"]) as recording:
        tiny.run()
    for own, given in zip(recording.layers("sampling_locations"), seen, strict=True):
        assert torch.equal(own, given)
