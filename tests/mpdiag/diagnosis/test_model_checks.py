"""Remedies that change the model: layers left out, thresholds of masks, modules in float32."""

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch

from mpdiag.diagnosis.changes import Changes
from mpdiag.diagnosis.checks import inputs
from mpdiag.diagnosis.checks.decoder import median_area_ratio
from mpdiag.diagnosis.checks.inputs import check_channels, check_normalisation
from mpdiag.diagnosis.checks.layers import check_self_attention
from mpdiag.diagnosis.checks.precision import coarse_modules, has_unused_bits
from mpdiag.diagnosis.collect import Collector
from mpdiag.diagnosis.evidence import Evidence, ImageEvidence
from mpdiag.diagnosis.trials import Trials


def test_a_skipped_layer_returns_its_input(collector: Collector) -> None:
    own = collector.collect(every_layer=True).images[0].class_logits
    skipped = collector.collect(Changes(skipped_layers=frozenset({1, 2})), every_layer=True)
    logits = skipped.images[0].class_logits
    for layer in (0, 1, 2):
        np.testing.assert_array_equal(logits[layer], own[0])
    assert np.abs(logits[3] - own[3]).max() > 1e-3


def test_the_ratio_of_areas_is_that_of_masks_and_gt(
    make_evidence: Callable[..., Evidence],
) -> None:
    evidence = make_evidence()  # masks and GT of 400 pixels
    assert median_area_ratio(evidence) == pytest.approx(1)
    images = [replace(x, gt_area=np.array([500.0, 800.0])) for x in evidence.images]
    assert median_area_ratio(evidence.changed(images)) == pytest.approx((400 / 500 + 400 / 800) / 2)
    assert median_area_ratio(evidence.changed(images[:9])) == 1  # too few objects


def test_a_mask_bias_moves_the_threshold_of_masks(collector: Collector) -> None:
    hook_point = collector.adapter.module.get_submodule("decoder.hook_points.mask_logits")
    handle = hook_point.register_forward_hook(lambda module, args, masks: masks - 1.5)
    lowered = collector.collect()
    undone = collector.collect(Changes(mask_bias=1.5))
    handle.remove()
    own = collector.collect()
    for image, same, other in zip(own.images, undone.images, lowered.images, strict=True):
        np.testing.assert_allclose(same.area, image.area, atol=2e-3)
        assert (other.area <= image.area).all() and (other.area < image.area).any()


def test_modules_with_coarse_outputs_run_in_float32(collector: Collector) -> None:
    assert coarse_modules(collector) == []
    own = collector.collect().images[0]
    names = ["decoder.layers.1.linear1", "decoder.mask_embed.layers.0"]
    handles = [
        collector.adapter.module.get_submodule(name).register_forward_hook(
            lambda module, args, output: output.bfloat16().float()
        )
        for name in names
    ]
    found = coarse_modules(collector)
    coarse = collector.collect().images[0]
    remedied = collector.collect(Changes(float32_modules=frozenset(found))).images[0]
    for handle in handles:
        handle.remove()
    assert set(found) == set(names)
    assert np.abs(coarse.class_logits - own.class_logits).max() > 0
    np.testing.assert_array_equal(remedied.class_logits, own.class_logits)
    np.testing.assert_array_equal(remedied.iou, own.iou)


def test_modules_under_autocast_are_coarse(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = collector.adapter.predict

    def autocast(*args: object, **options: object) -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return predict(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(collector.adapter, "predict", autocast)
    found = coarse_modules(collector)
    assert "decoder.layers.0.linear1" in found and "decoder.layers.0.cross_norm" not in found
    remedied = collector.collect(Changes(float32_modules=frozenset(found)), every_layer=True)
    coarse = collector.collect(every_layer=True)
    monkeypatch.undo()
    own = collector.collect(every_layer=True)
    errors = [
        np.abs(x.images[0].class_logits - own.images[0].class_logits).mean()
        for x in (remedied, coarse)
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_unused_bits(dtype: torch.dtype) -> None:
    numbers = torch.randn(500, generator=torch.Generator().manual_seed(0))
    assert not has_unused_bits(numbers)
    assert has_unused_bits(numbers.to(dtype))
    assert has_unused_bits(numbers.to(dtype).float())
    assert not has_unused_bits(torch.zeros(500)) and not has_unused_bits(numbers.to(dtype)[:50])


def test_a_small_gain_of_another_normalisation_does_not_count(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Trials(collector, collector.collect(every_layer=True))
    gains = {"CLIP": 0.02, "Caffe": 0.01}
    monkeypatch.setattr(
        Trials,
        "best",
        lambda self, cause, changes, min_gain=0.0: next(
            ((name, changes[name]) for name in gains if gains[name] > min_gain), None
        ),
    )
    assert list(check_normalisation(trials)) == []
    handle = collector.adapter.module.get_submodule("backbone").register_forward_pre_hook(
        lambda module, args: args[0] * 0.5
    )
    found = [one.evidence for one in check_normalisation(trials)]
    handle.remove()
    assert found == [{"better": "CLIP"}]


def test_channels_are_exchanged_where_the_model_is_more_confident(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every second image, whatever that gains."""
    evidence = collector.collect(every_layer=True)
    swapped = collector.collect(Changes(swap_channels=True), every_layer=True)
    own = [one.class_logits[-1] for one in evidence.images]
    prefers_own = dict(zip((one.image_id for one in evidence.images), cycle([True, False])))

    def confidence(image: ImageEvidence, rule: str) -> float:
        is_own = any(np.array_equal(image.class_logits[-1], one) for one in own)
        return float(is_own == prefers_own[image.image_id])

    monkeypatch.setattr(inputs, "_confidence", confidence)
    monkeypatch.setattr(inputs, "MIN_CHOICE_GAIN", -1.0)
    found = list(check_channels(Trials(collector, evidence)))[-1]
    assert found.evidence["which_images"] == "those that are more confident with it"
    assert found.edit is not None
    mixed = found.edit(evidence)
    pairs = zip(evidence.images, swapped.images, cycle([True, False]))
    expected = evidence.changed([one if keep else new for one, new, keep in pairs])
    assert mixed.score() == expected.score()
    for image, same in zip(mixed.images, expected.images, strict=True):
        np.testing.assert_array_equal(image.class_logits, same.class_logits)


def test_self_attention_with_nan_is_not_taken_to_have_no_effect(collector: Collector) -> None:
    layers = [collector.adapter.module.get_submodule(f"decoder.layers.{k}") for k in range(2)]
    with torch.no_grad():
        next(layers[1].parameters()).view(-1)[0] = torch.nan
    evidence = collector.collect(every_layer=True)
    assert list(check_self_attention(evidence)) == []
    handle = layers[0].get_submodule("self_attn").register_forward_hook(lambda *args: 0 * args[2])
    (candidate,) = check_self_attention(collector.collect(every_layer=True))
    handle.remove()
    assert candidate.layers == (1,)
    assert candidate.evidence == {"largest_output": [0.0, None, None, None]}
