"""Shapes of the model, attention masks and the position encoding."""

import pytest
import torch
from torch import cos, sin

from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.models import Mask2Former
from mpdiag.models.attention import sine_position
from mpdiag.models.mask2former import padded_size
from mpdiag.recording import record


def test_output_shapes(small_model: Mask2Former, images: list[torch.Tensor]) -> None:
    output = small_model(images)
    assert output.piloted is None
    assert output.matching.class_logits.shape == (5, 2, 6, 4)
    assert output.matching.mask_logits.shape == (5, 2, 6, 16, 16)


@pytest.mark.parametrize(
    ("name", "depthwise"), [("test_efficientnet", True), ("test_resnet", False)]
)
def test_depthwise_convolutions_run_in_channels_last(
    small_config: ModelConfig, images: list[torch.Tensor], name: str, depthwise: bool
) -> None:
    backbone = BackboneConfig(name=name, norm="frozen")
    model = Mask2Former(small_config.model_copy(update={"backbone": backbone})).eval()
    pixels = model.preprocess(images)
    expected = model.backbone(pixels)
    inputs: list[torch.Tensor] = []
    model.backbone.register_forward_pre_hook(lambda module, args: inputs.extend(args))
    found = []
    model.backbone.register_forward_hook(lambda module, args, output: found.extend(output))
    model(images)
    assert inputs[0].is_contiguous(memory_format=torch.channels_last) == depthwise
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


def test_images_of_a_batch_are_independent(
    small_model: Mask2Former, images: list[torch.Tensor]
) -> None:
    with torch.no_grad():
        both = small_model(images).matching.mask_logits
        alone = small_model(images[:1]).matching.mask_logits
    torch.testing.assert_close(both[:, :1], alone, rtol=1e-4, atol=1e-4)


def test_attention_masks_are_the_previous_predictions(
    small_model: Mask2Former, images: list[torch.Tensor]
) -> None:
    with torch.no_grad(), record(small_model) as recording:
        small_model(images)
    masks = recording.mask_logits
    for layer, visible in enumerate(recording.layers("attention_mask")):
        size = [(2, 2), (4, 4), (8, 8)][layer % 3]
        coarse = torch.nn.functional.interpolate(
            masks[layer], size=size, mode="bilinear", align_corners=False
        ).flatten(2)
        expected = coarse >= 0
        expected |= ~expected.any(-1, keepdim=True)
        assert torch.equal(visible, expected)
        assert visible.any(-1).all()


def test_padded_size() -> None:
    assert padded_size([(64, 33), (20, 65)]) == (64, 96)


def test_sine_position_equals_detr() -> None:
    found = sine_position(2, 3, 8, torch.device("cpu")).view(2, 3, 8)
    y = 2 / (2 + 1e-6) * 2 * torch.pi
    x = 3 / (3 + 1e-6) * 2 * torch.pi
    expected = [f(torch.tensor(a / s)) for a in (y, x) for s in (1, 100) for f in (sin, cos)]
    torch.testing.assert_close(found[1, 2], torch.stack(expected), atol=1e-5, rtol=1e-4)
