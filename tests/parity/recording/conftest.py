"""Small models of every family with random weights, and what their own outputs are called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

t = pytest.importorskip("transformers")

L = 3  # decoder layers


@dataclass
class Tiny:
    """A small model, what to call it with, and how to ask it for itself with fewer layers."""

    model: nn.Module
    inputs: dict[str, Tensor]
    masks: str
    classes: str
    truncate: Callable[[nn.Module, int], None]

    @torch.no_grad()
    def run(self, **more: Any) -> Any:
        return self.model(**self.inputs, **more)


def pixels(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


def swin() -> Any:
    return t.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def cut(path: str) -> Callable[[nn.Module, int], None]:
    """Keep the first layers of the module list at `path`."""

    def truncate(model: nn.Module, layers: int) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, model.get_submodule(path)[:layers])

    return truncate


def mask2former() -> Tiny:
    config = t.Mask2FormerConfig(
        backbone_config=swin(),
        feature_size=32,
        mask_feature_size=16,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=L + 1,
        num_attention_heads=4,
        dim_feedforward=32,
        num_queries=5,
        num_labels=3,
    )
    model = t.Mask2FormerForUniversalSegmentation(config)
    return Tiny(
        model,
        {"pixel_values": pixels(2, 3, 64, 96)},
        "masks_queries_logits",
        "class_queries_logits",
        cut("model.transformer_module.decoder.layers"),
    )


def maskformer() -> Tiny:
    config = t.MaskFormerConfig(
        backbone_config=swin(),
        decoder_config=t.DetrConfig(
            decoder_layers=L,
            d_model=16,
            decoder_attention_heads=2,
            decoder_ffn_dim=16,
            num_queries=5,
        ),
        fpn_feature_size=32,
        mask_feature_size=16,
        num_labels=3,
    )
    model = t.MaskFormerForInstanceSegmentation(config)
    return Tiny(
        model,
        {"pixel_values": pixels(2, 3, 64, 96)},
        "masks_queries_logits",
        "class_queries_logits",
        cut("model.transformer_module.decoder.layers"),
    )


MODELS = {
    "transformers Mask2Former": mask2former,
    "transformers MaskFormer": maskformer,
}


def build(name: str) -> Tiny:
    torch.manual_seed(0)
    tiny = MODELS[name]()
    tiny.model.eval()
    with torch.no_grad():  # norms that change something, and masks of all sizes
        for module in tiny.model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.normal_(1, 0.5)
                module.bias.normal_(0, 0.5)
    return tiny


@pytest.fixture(params=MODELS)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def tiny(family: str) -> Tiny:
    return build(family)
