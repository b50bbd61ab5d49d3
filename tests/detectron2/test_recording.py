"""Recordings of the official models, compared with their outputs."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mpdiag
from mpdiag.recording import Recording

NAMES = {"class_logits": "pred_logits", "mask_logits": "pred_masks"}


def layers_of(output: dict[str, Any], key: str) -> list[Tensor]:
    return [*(layer[key] for layer in output["aux_outputs"]), output[key]]


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def recorded(model: nn.Module, inputs: Any) -> tuple[Recording, Any, dict[str, Any]]:
    """Return the recording, the output of the model, and the output of its head."""
    seen: list[Any] = []
    handle = model.get_submodule("sem_seg_head").register_forward_hook(
        lambda *call: seen.append(call[-1])
    )
    with mpdiag.record(model) as recording:
        result = model(inputs)
    handle.remove()
    return recording, result, seen[0]


def test_inference(build_official: Callable[[], nn.Module], inputs: list[dict[str, Any]]) -> None:
    model = build_official().eval()
    with torch.no_grad():
        plain = model(inputs)
        recording, result, output = recorded(model, inputs)
    for name, key in NAMES.items():
        found, expected = recording.layers(name), layers_of(output, key)
        assert len(found) == 5
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for a, b in zip(plain, result, strict=True):
        assert torch.equal(a["sem_seg"], b["sem_seg"])
        assert torch.equal(a["instances"].scores, b["instances"].scores)
        assert torch.equal(a["instances"].pred_masks, b["instances"].pred_masks)
    assert "piloted_mask_logits" not in recording and "assignment" not in recording
    assert [mask.shape for mask in recording.layers("attention_mask")] == [
        (2, 6, cells) for cells in (4, 16, 64, 4)
    ]
    assert recording.query.shape == (5, 2, 6, 32)
    predictor = model.get_submodule("sem_seg_head.predictor")
    again = predictor.class_embed(predictor.decoder_norm(recording.query))
    torch.testing.assert_close(again, recording.class_logits)
    assert hooks_of(model) == 0


def test_attention_masks_follow_from_the_masks(
    build_official: Callable[[], nn.Module], inputs: list[dict[str, Any]]
) -> None:
    model = build_official().eval()
    with torch.no_grad():
        recording, _, _ = recorded(model, inputs)
    for layer, visible in enumerate(recording.layers("attention_mask")):
        side = int(visible.shape[-1] ** 0.5)
        coarse = nn.functional.interpolate(
            recording.mask_logits[layer], (side, side), mode="bilinear"
        )
        expected = coarse.flatten(2).sigmoid() >= 0.5
        assert torch.equal(visible, expected | ~expected.any(-1, keepdim=True))


def test_training(
    build_official: Callable[[], nn.Module], family: str, inputs: list[dict[str, Any]]
) -> None:
    model = build_official().train()
    torch.manual_seed(5)
    plain = model(inputs)
    torch.manual_seed(5)
    pairs: list[Any] = []
    handle = model.criterion.matcher.register_forward_hook(lambda *call: pairs.append(call[-1]))
    recording, losses, output = recorded(model, inputs)
    handle.remove()
    assert plain.keys() == losses.keys()
    assert all(torch.equal(plain[name], losses[name]) for name in plain)
    for name, key in NAMES.items():
        assert torch.equal(getattr(recording, name), torch.stack(layers_of(output, key)))
    assert recording.assignment.shape == (5, 2, 6)
    for layer, matching in enumerate([*pairs[1:], pairs[0]]):
        for image, (queries, gt) in enumerate(matching):
            assert recording.assignment[layer, image, queries].tolist() == gt.tolist()
            assert (recording.assignment[layer, image] >= 0).sum() == len(queries)
    if family == "mpformer":
        for name, key in NAMES.items():
            expected = torch.stack(layers_of(output["dn_out"], key))
            assert torch.equal(getattr(recording, f"piloted_{name}"), expected)
        # Two groups of three slots; the first image has two objects.
        assert recording.piloted_assignment.shape == (5, 2, 6)
        assert recording.piloted_assignment[3].tolist() == [[0, 1, -1, 0, 1, -1], [0, 1, 2] * 2]
        assert recording.piloted_query.shape == (5, 2, 6, 32)
        assert recording.layers("piloted_attention_mask")[2].shape == (2, 6, 64)
    else:
        assert "piloted_mask_logits" not in recording
    assert hooks_of(model) == 0


def test_attention(
    build_official: Callable[[], nn.Module],
    inputs: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_official().eval()
    weights: list[Tensor] = []
    for layer in model.sem_seg_head.predictor.transformer_cross_attention_layers:
        layer.multihead_attn.register_forward_hook(lambda *call: weights.append(call[-1][1]))
    module = importlib.import_module(
        "mask2former.modeling.pixel_decoder.ops.modules.ms_deform_attn"
    )
    sampled: list[Tensor] = []
    core = module.ms_deform_attn_core_pytorch

    def spy(value: Any, shapes: Any, locations: Tensor, *rest: Any) -> Tensor:
        sampled.append(locations)
        result: Tensor = core(value, shapes, locations, *rest)
        return result

    monkeypatch.setattr(module, "ms_deform_attn_core_pytorch", spy)
    names = ["cross_attention", "sampling_locations"]
    with torch.no_grad(), mpdiag.record(model, only=names) as recording:
        model(inputs)
    assert len(recording.layers("cross_attention")) == len(weights) == 4
    for found, own in zip(recording.layers("cross_attention"), weights, strict=True):
        torch.testing.assert_close(found.mean(1), own)  # averaged over heads by torch
    torch.testing.assert_close(recording.sampling_locations, torch.stack(sampled))


def test_hooks_are_removed_after_an_exception(build_official: Callable[[], nn.Module]) -> None:
    model = build_official().eval()
    with pytest.raises(KeyError, match="image"), mpdiag.record(model):
        model([{}])
    assert hooks_of(model) == 0


def test_the_head_alone(
    build_official: Callable[[], nn.Module], inputs: list[dict[str, Any]]
) -> None:
    model = build_official().eval()
    images = torch.stack([one["image"] for one in inputs]).float()
    with torch.no_grad(), mpdiag.record(model.get_submodule("sem_seg_head")) as recording:
        output = model.sem_seg_head(model.backbone(images))
    assert torch.equal(recording.mask_logits[-1], output["pred_masks"])


def test_another_decoder_is_rejected(official_config: Any) -> None:
    official_config.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "StandardTransformerDecoder"
    model = importlib.import_module("detectron2.modeling").build_model(official_config)
    with (
        pytest.raises(mpdiag.errors.RecordingError, match="no known family"),
        mpdiag.record(model),
    ):
        pass


def test_cross_attention(
    build_official: Callable[[], nn.Module], inputs: list[dict[str, Any]]
) -> None:
    """torch's attention module also returns the mean over its heads."""
    model = build_official().eval()
    means: list[Tensor] = []
    for layer in model.get_submodule("sem_seg_head.predictor.transformer_cross_attention_layers"):
        layer.multihead_attn.register_forward_hook(lambda *call: means.append(call[2][1]))
    with torch.no_grad(), mpdiag.record(model, only=["cross_attention"]) as recording:
        model(inputs)
    for weights, mean in zip(recording.layers("cross_attention"), means, strict=True):
        torch.testing.assert_close(weights.mean(1), mean)
