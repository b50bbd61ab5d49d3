"""Small models of every family with random weights, and the names of their outputs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ... import transformers_models

t = pytest.importorskip("transformers")

L = 3  # decoder layers


@dataclass
class Tiny:
    """A small model, its inputs, and a function that removes its later layers."""

    model: nn.Module
    inputs: dict[str, Tensor]
    truncate: Callable[[nn.Module, int], None]
    masks: str = "masks_queries_logits"
    classes: str = "class_queries_logits"
    first: int = 0  # smallest number of layers that it runs with
    no_object: bool = True  # whether it has a no-object class

    @torch.no_grad()
    def run(self, **more: Any) -> Any:
        return self.model(**self.inputs, **more)


def pixels(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


def cut(path: str) -> Callable[[nn.Module, int], None]:
    """Keep the first layers of the module list at `path`."""

    def truncate(model: nn.Module, layers: int) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, model.get_submodule(path)[:layers])

    return truncate


def mask2former() -> Tiny:
    model = transformers_models.mask2former(decoder_layers=L + 1)
    return Tiny(
        model,
        {"pixel_values": pixels(2, 3, 64, 96)},
        cut("model.transformer_module.decoder.layers"),
    )


def maskformer() -> Tiny:
    config = t.MaskFormerConfig(
        backbone_config=transformers_models.swin(),
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
        cut("model.transformer_module.decoder.layers"),
    )


def oneformer() -> Tiny:
    model = transformers_models.oneformer(decoder_layers=L + 1)
    return Tiny(
        model,
        {
            "pixel_values": pixels(2, 3, 64, 96),
            "task_inputs": torch.tensor([[1, 2, 3, 0, 0, 0, 0]] * 2),
        },
        cut("model.transformer_module.decoder.layers"),
        first=1,  # its decoder returns the output of its last layer
    )


def vit(config: type[Any], **more: Any) -> Any:
    """Return a config of EoMT and similar models: one block without queries, L with queries."""
    return config(
        hidden_size=32,
        num_hidden_layers=L + 1,
        num_attention_heads=4,
        image_size=64,
        patch_size=16,
        num_upscale_blocks=2,
        num_blocks=L,
        num_queries=5,
        num_register_tokens=1,
        num_labels=3,
        **more,
    )


def fewer_blocks(model: Any, layers: int) -> None:
    """Keep the first of the blocks that have queries."""
    model.layers = model.layers[: len(model.layers) - L + layers]
    model.num_hidden_layers = len(model.layers)
    model.config.num_blocks = layers


def eomt() -> Tiny:
    model = t.EomtForUniversalSegmentation(vit(t.EomtConfig))
    return Tiny(
        model,
        {"pixel_values": pixels(2, 3, 64, 64)},
        fewer_blocks,
        first=1,
    )


def eomt_dinov3() -> Tiny:
    model = t.EomtDinov3ForUniversalSegmentation(vit(t.EomtDinov3Config, intermediate_size=32))
    return replace(eomt(), model=model)


def videomt() -> Tiny:
    model = t.VideomtForUniversalSegmentation(vit(t.VideomtConfig))
    return replace(eomt(), model=model, inputs={"pixel_values_videos": pixels(2, 1, 3, 64, 64)})


def detr() -> Tiny:
    return _detr(t.DetrForSegmentation, t.DetrConfig, "detr.model.decoder.layers")


def conditional_detr() -> Tiny:
    tiny = _detr(
        t.ConditionalDetrForSegmentation,
        t.ConditionalDetrConfig,
        "conditional_detr.model.decoder.layers",
    )
    return replace(tiny, no_object=False)


def _detr(model: type[Any], config: type[Any], layers: str) -> Tiny:
    settings = config(
        backbone_config=t.ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        d_model=128,
        encoder_layers=1,
        decoder_layers=L,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=5,
        num_labels=3,
    )
    # The second image is padded.
    mask = torch.ones(2, 64, 96, dtype=torch.long)
    mask[1, :, 50:] = 0
    inputs = {"pixel_values": pixels(2, 3, 64, 96), "pixel_mask": mask}
    return Tiny(model(settings), inputs, cut(layers), "pred_masks", "logits")


def rf_detr() -> Tiny:
    config = t.RfDetrConfig(
        backbone_config=dict(
            model_type="rf_detr_dinov2",
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=64,
            patch_size=16,
            num_windows=1,
            out_features=["stage2", "stage4"],
        ),
        d_model=32,
        decoder_layers=L,
        decoder_ffn_dim=32,
        decoder_self_attention_heads=4,
        decoder_cross_attention_heads=4,
        decoder_n_points=2,
        num_queries=5,
        group_detr=2,
        intermediate_size=32,
        num_labels=3,
    )
    model = t.RfDetrForInstanceSegmentation(config)
    return Tiny(
        model,
        {"pixel_values": pixels(2, 3, 64, 64)},
        cut("model.model.decoder.layers"),
        "pred_masks",
        "logits",
        first=1,
        no_object=False,
    )


MODELS = {
    "transformers Mask2Former": mask2former,
    "transformers MaskFormer": maskformer,
    "transformers OneFormer": oneformer,
    "transformers EoMT": eomt,
    "transformers EoMT DINOv3": eomt_dinov3,
    "transformers VideoMT": videomt,
    "transformers DETR": detr,
    "transformers Conditional DETR": conditional_detr,
    "transformers RF-DETR": rf_detr,
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
