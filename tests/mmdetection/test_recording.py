"""Recordings of mmdetection's Mask2Former, compared with its outputs; needs mmdet and mmcv."""

from typing import Any

import pytest
import torch
from torch import Tensor

import mpdiag

pytest.importorskip("mmdet")

from .make_reference import CASES_OF, CONFIGS, HEADS, QUERIES, build

SIZE = (64, 96)


@pytest.fixture(scope="module")
def model() -> Any:
    config, backbone, channels = CASES_OF["r50"]
    return build(CONFIGS / config, backbone, channels)


def predict(model: Any) -> tuple[list[Tensor], list[Tensor]]:
    from mmdet.structures import DetDataSample

    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    meta = {"batch_input_shape": SIZE, "img_shape": SIZE}
    samples = [DetDataSample(metainfo=meta) for _ in images]
    found: tuple[list[Tensor], list[Tensor]] = model(images, samples, mode="tensor")
    return found


@pytest.mark.parametrize("training", [False, True])
def test_all_layers_are_those_of_the_output(model: Any, training: bool) -> None:
    model.train(training)
    model.backbone.eval()
    only = ["query", "*_logits", "attention_mask", "cross_attention"]
    with torch.no_grad(), mpdiag.record(model, only=only) as recording:
        logits, masks = predict(model)
    assert recording.family == "mmdetection Mask2Former" and len(logits) == 5
    assert torch.equal(recording.class_logits, torch.stack(logits))
    assert torch.equal(recording.mask_logits, torch.stack(masks))
    head = model.panoptic_head
    again = head.cls_embed(head.transformer_decoder.post_norm(recording.query))
    torch.testing.assert_close(again, recording.class_logits)


def test_a_query_attends_where_its_mask_was(model: Any) -> None:
    model.eval()
    with torch.no_grad(), mpdiag.record(model, only=["*"]) as recording:
        predict(model)
    cells = [(SIZE[0] // stride) * (SIZE[1] // stride) for stride in (32, 16, 8, 32)]
    shapes = [tuple(mask.shape) for mask in recording.layers("attention_mask")]
    assert shapes == [(2, QUERIES, count) for count in cells]
    resized = torch.nn.functional.interpolate(
        recording.mask_logits[0], (2, 3), mode="bilinear", align_corners=False
    )
    inside = (resized.sigmoid() >= 0.5).flatten(2)
    expected = inside | ~inside.any(-1, keepdim=True)  # an empty mask attends everywhere
    assert torch.equal(recording.layers("attention_mask")[0], expected)
    weights = recording.layers("cross_attention")[0]
    assert weights.shape == (2, HEADS, QUERIES, cells[0])
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, QUERIES))
    assert not weights.amax(1)[~expected].any()
