"""transformers' Mask2Former with converted weights, against the official figures of all layers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mpdiag.checkpoints import load_model, save_checkpoint
from mpdiag.checkpoints.convert import convert
from mpdiag.checkpoints.transformers_directory import write_transformers
from mpdiag.config import BackboneConfig, ModelConfig
from mpdiag.models import Mask2Former

transformers = pytest.importorskip("transformers")


def close(found: Tensor, expected: Tensor) -> None:
    """Compare with a tolerance of 1e-4 of the standard deviation."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


def load_transformers(directory: Path) -> Any:
    """Load transformers' model and check that all parameters are loaded and none is unused."""
    model, report = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(
        directory, output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


@torch.no_grad()
def outputs_of(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    output = model(pixels, output_hidden_states=True, output_auxiliary_logits=True)
    layers = [*output.auxiliary_logits, output]
    return {
        **{f"backbone.res{k + 2}": x for k, x in enumerate(output.encoder_hidden_states)},
        **{f"multi_scale.{k}": x for k, x in enumerate(output.pixel_decoder_hidden_states)},
        "mask_features": output.pixel_decoder_last_hidden_state,
        "pred_logits": torch.stack([layer["class_queries_logits"] for layer in layers]),
        "pred_masks": torch.stack([layer["masks_queries_logits"] for layer in layers]),
    }


@torch.no_grad()
def mpdiag_outputs(model: Mask2Former, pixels: Tensor) -> dict[str, Tensor]:
    maps = model.backbone(pixels)
    levels, mask_features = model.pixel_decoder(maps)
    found = model.decoder(levels, mask_features).matching
    return {
        **{f"backbone.res{k + 2}": x for k, x in enumerate(maps)},
        **{f"multi_scale.{k}": x for k, x in enumerate(levels)},
        "mask_features": mask_features,
        "pred_logits": found.class_logits,
        "pred_masks": found.mask_logits,
    }


def test_official_figures(case, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.pth", case.model)
    convert(tmp_path / "model.pth", tmp_path / "there", "transformers")
    found = outputs_of(load_transformers(tmp_path / "there"), case.model.preprocess(case.images))
    for name, tensor in mpdiag_outputs(case.model, case.model.preprocess(case.images)).items():
        close(found[name], tensor)
        close(found[name], case.tensors[f"eval.{name}"])


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_resnet_of_basic_blocks(tmp_path: Path, norm: Any) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        num_classes=5,
        backbone=BackboneConfig(name="resnet18", channels=(8, 16, 32, 64), norm=norm),
        hidden_dim=64,
        mask_dim=32,
        num_heads=4,
        encoder_layers=2,
        decoder_layers=4,
        num_queries=9,
    )
    model = Mask2Former(config).eval()
    write_transformers(tmp_path, model)
    pixels = torch.randn(2, 3, 96, 64)
    found = outputs_of(load_transformers(tmp_path), pixels)
    for name, tensor in mpdiag_outputs(model, pixels).items():
        close(found[name], tensor)


def test_saved_by_transformers(case, tmp_path: Path) -> None:
    write_transformers(tmp_path, case.model)
    load_transformers(tmp_path).save_pretrained(tmp_path / "saved")
    expected, found = load_model(tmp_path), load_model(tmp_path / "saved")
    assert found.config == expected.config
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_image_processor(case, tmp_path: Path) -> None:
    """It pads to the largest image; mpdiag and the official model pad to a multiple of 32."""
    write_transformers(tmp_path, case.model)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor).__name__.startswith("Mask2FormerImageProcessor")
    found = processor(case.images, do_resize=False, return_tensors="pt")["pixel_values"]
    height, width = found.shape[-2:]
    close(found, case.model.preprocess(case.images)[..., :height, :width])
