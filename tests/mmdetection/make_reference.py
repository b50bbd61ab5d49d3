"""Write parity/reference/mmdetection.*: outputs of small random models of mmdetection.

It needs mmdet 3.3 with mmcv: `python -m tests.mmdetection.make_reference`. Tests do not.
"""

import json
from pathlib import Path
from typing import Any

import mmdet
import mmdet.models
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from safetensors.torch import save_file

from ..parity.conftest import CASES, parameter

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs" / "mask2former"
CHANNELS, HEADS, QUERIES, CLASSES = 32, 8, 12, 7
RESNET = {"base_channels": 8, "init_cfg": None}
SWIN = {
    "embed_dims": 16,
    "depths": (2, 2, 2, 2),
    "num_heads": (2, 2, 4, 8),
    "window_size": 4,
    "init_cfg": None,
}
CASES_OF = {
    "r50": ("mask2former_r50_8xb2-lsj-50e_coco.py", RESNET, (32, 64, 128, 256)),
    "swin": ("mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py", SWIN, (16, 32, 64, 128)),
}


def build(config: Path, backbone: dict[str, Any], channels: tuple[int, ...]) -> Any:
    """Return the published model with fewer channels, layers, queries and classes."""
    init_default_scope("mmdet")
    settings = Config.fromfile(str(config)).model
    settings.backbone.update(backbone)
    head = settings.panoptic_head
    head.update(
        in_channels=list(channels),
        feat_channels=CHANNELS,
        out_channels=CHANNELS,
        num_things_classes=CLASSES,
        num_queries=QUERIES,
    )
    head.loss_cls.class_weight = [1.0] * CLASSES + [0.1]
    settings.panoptic_fusion_head.num_things_classes = CLASSES
    for part, layers in ((head.pixel_decoder.encoder, 2), (head.transformer_decoder, 4)):
        part.num_layers = layers
        for name in ("self_attn_cfg", "cross_attn_cfg", "ffn_cfg"):
            if name in part.layer_cfg:
                part.layer_cfg[name].embed_dims = CHANNELS
        part.layer_cfg.ffn_cfg.feedforward_channels = 2 * CHANNELS
    for part in (head, head.pixel_decoder):
        part.positional_encoding.num_feats = CHANNELS // 2
    model = MODELS.build(settings).eval()
    state = model.state_dict()
    for name, values in state.items():
        if values.dtype == torch.float32:
            values.copy_(parameter(name, tuple(values.shape), 0))
    return model


@torch.no_grad()
def main() -> None:
    image = torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(0))
    tensors = {"image": image.to(torch.uint8)}
    shapes = {}
    for name, (config, backbone, channels) in CASES_OF.items():
        model = build(CONFIGS / config, backbone, channels)
        pixels = (image[None] - model.data_preprocessor.mean) / model.data_preprocessor.std
        size = tuple(image.shape[1:])
        sample = DetDataSample(metainfo={"batch_input_shape": size, "img_shape": size})
        found = model.panoptic_head(model.extract_feat(pixels), [sample])
        for kind, layers in zip(("class_logits", "mask_logits"), found, strict=True):
            tensors[f"{name}.{kind}"] = torch.stack(layers)
        state = model.state_dict()
        shapes[name] = {key: list(x.shape) for key, x in state.items()}
        index = next((x for key, x in state.items() if key.endswith("position_index")), None)
        if index is not None:
            tensors["relative_position_index"] = index  # the same in all windows
    save_file(tensors, CASES / "mmdetection.safetensors")
    (CASES / "mmdetection.json").write_text(json.dumps({"mmdet": mmdet.__version__, **shapes}))


if __name__ == "__main__":
    main()
