"""Measurements of a model: attention masks and GT, multiply-adds, flipped and rounded passes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from mpdiag.config import ModelConfig
from mpdiag.diagnosis.changes import Changes
from mpdiag.diagnosis.collect import Collector
from mpdiag.diagnosis.evidence import Evidence, ImageEvidence
from mpdiag.diagnosis.facts import ModelFacts
from mpdiag.diagnosis.model_measures import ap_of_queries, multiply_adds_of_layers, query_measures
from mpdiag.matching import Target
from mpdiag.models import Mask2Former
from mpdiag.models.complexity import count_multiply_adds


def test_attention_masks_are_compared_with_gt(make_evidence: Callable[..., Evidence]) -> None:
    # Two decoder layers with grids of 4 x 4 and 2 x 2 cells; three queries, two GT.
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, :8, :8] = True  # 4 cells of 4 x 4, 1 cell of 2 x 2
    masks[1, 12:, 12:] = True  # 1 cell of 4 x 4, none of 2 x 2
    target = Target(labels=torch.zeros(2, dtype=torch.long), masks=masks)
    fine = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
    fine[0, 0, :2, :] = True  # 8 cells, all 4 of GT 0
    fine[0, 1, 3, 2:] = True  # 2 cells, that of GT 1
    fine[0, 2, 0, :] = True  # 4 cells, 2 of GT 0
    coarse = torch.zeros(1, 3, 2, 2, dtype=torch.bool)
    coarse[0, :, 0, 0] = True
    image = make_evidence(1).images[0]
    iou = np.zeros((3, 3, 2))
    iou[-1, 0, 0] = iou[-1, 1, 1] = 0.9
    image = replace(image, iou=iou, gt_area=np.array([64.0, 16.0]))
    facts = ModelFacts()
    facts.measure_attention(
        [fine.flatten(2), coarse.flatten(2)], torch.zeros(3, 1, 3, 4, 4), [target], [image]
    )
    assert facts.attention is not None
    assert facts.attention.averages(1) == {
        "attention_recall": 1.0,
        "attention_precision": (4 / 8 + 1 / 2) / 2,
        "queries_per_gt": 1.0,  # query 0 with IoU 4/8, query 1 with 1/2; query 2 has 2/6
        "gt_without_cell": 0.0,
    }
    assert facts.attention.averages(2) == {
        "attention_recall": 1.0,
        "attention_precision": 1.0,
        "queries_per_gt": 3.0,  # of GT 0, which alone has a cell
        "gt_without_cell": 0.5,
    }


def test_multiply_adds_are_those_of_a_model_with_fewer_layers(small_config: ModelConfig) -> None:
    model = Mask2Former(small_config)
    mean = torch.ones(1)
    model.backbone.register_forward_pre_hook(lambda module, args: args[0] - mean)
    counts = multiply_adds_of_layers(model, (60, 96))
    assert len(counts) == small_config.decoder_layers + 1
    shorter = Mask2Former(small_config.model_copy(update={"decoder_layers": 1}))
    assert counts[1] == count_multiply_adds(shorter, 60, 96)["total"]


def test_queries_are_left_out_one_by_one(make_evidence: Callable[..., Evidence]) -> None:
    healthy = make_evidence(12)
    alone = healthy.changed([_query_first(image) for image in healthy.images])
    own, lost = alone.matched().values()[0], ap_of_queries(alone)
    assert lost[0] == pytest.approx(own)  # query 0 finds every object
    for query in (0, 4):
        kept = np.delete(np.arange(10), query)
        images = [
            replace(
                image, iou=image.iou[:, kept], class_logits=image.class_logits[:, kept],
                quality=image.quality[:, kept], area=image.area[:, kept],
                ignored=image.ignored[kept],
            )
            for image in alone.images
        ]  # fmt: skip
        assert lost[query] == pytest.approx(own - alone.changed(images).matched().values()[0])
    measures = query_measures(alone)
    assert measures["more_gt_than_queries"] == 0 == measures["overlap_of_masks"]
    assert measures["repeated_in_top"] == pytest.approx(2 / 3)  # 10 queries, 3 classes each


def _query_first(image: ImageEvidence) -> ImageEvidence:
    """Let query 0 find one object, the only one."""
    finder = int(image.iou[-1, :, 0].argmax())
    order = [finder, *(x for x in range(10) if x != finder)]
    kept = [0]
    return replace(
        image, iou=image.iou[:, order][..., kept], class_logits=image.class_logits[:, order],
        quality=image.quality[:, order], gt_labels=image.gt_labels[kept],
        gt_crowd=image.gt_crowd[kept], gt_area=image.gt_area[kept],
    )  # fmt: skip


def test_flipped_images_have_flipped_gt(collector: Collector) -> None:
    own = collector.collect().images
    flipped = collector.collect(Changes(flip=True)).images
    for image, other in zip(own, flipped, strict=True):
        np.testing.assert_allclose(other.gt_center[:, 1], 1 - image.gt_center[:, 1], atol=1e-6)
        np.testing.assert_allclose(other.gt_center[:, 0], image.gt_center[:, 0], atol=1e-6)
        assert np.abs(other.class_logits - image.class_logits).max() > 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outputs_of_modules_are_rounded(collector: Collector, dtype: torch.dtype) -> None:
    own = collector.collect().images[0].class_logits
    rounded = collector.collect(Changes(rounded=dtype)).images[0].class_logits
    values = torch.from_numpy(rounded)
    assert torch.equal(values, values.to(dtype).float())
    error = np.abs(rounded - own).max()
    assert 0 < error < 0.2
