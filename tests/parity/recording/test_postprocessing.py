"""Instances by the rule of each family, compared with the post-processing of its library."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mpdiag.models import ImageSizes, instance_inference

t = pytest.importorskip("transformers")

QUERIES, CLASSES, SIZE = 9, 4, (33, 50)


@pytest.fixture
def masks() -> torch.Tensor:
    coarse = torch.randn(1, QUERIES, 4, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (16, 24), mode="bicubic")


def test_rf_detr(masks: torch.Tensor) -> None:
    """Compare all pairs in order; the library omits pairs with empty masks."""
    logits = 3 * torch.randn(1, QUERIES, CLASSES, generator=torch.Generator().manual_seed(1))
    own = t.RfDetrImageProcessor().post_process_instance_segmentation(
        SimpleNamespace(logits=logits, pred_masks=masks),
        threshold=0.0,
        target_sizes=[SIZE],
        return_binary_maps=True,
        top_k=QUERIES,
    )[0]
    found = instance_inference(
        torch.nn.functional.pad(logits, (0, 1))[0],
        masks[0],
        ImageSizes((64, 96), (64, 96), SIZE),
        detections=QUERIES,
        rule="sigmoid",
    )
    assert len(own["segments_info"]) == QUERIES
    assert found.labels.tolist() == [one["label_id"] for one in own["segments_info"]]
    scores = [one["score"] for one in own["segments_info"]]  # rounded to six digits
    np.testing.assert_allclose(found.scores.numpy(), scores, atol=1e-6)
    assert torch.equal(found.masks, own["segmentation"])
    assert len(set(found.queries.tolist())) < QUERIES  # a query may give several


def test_detr(masks: torch.Tensor) -> None:
    logits = 3 * torch.randn(1, QUERIES, CLASSES + 1, generator=torch.Generator().manual_seed(1))
    outputs = SimpleNamespace(logits=logits, pred_boxes=torch.rand(1, QUERIES, 4))
    own = t.DetrImageProcessor().post_process_object_detection(outputs, threshold=0.0)[0]
    sizes = ImageSizes((64, 96), (64, 96), SIZE)
    found = instance_inference(logits[0], masks[0], sizes, rule="detr")
    order = own["scores"].argsort(descending=True)
    assert sorted(found.queries.tolist()) == list(range(QUERIES))
    assert torch.equal(found.queries, order)
    assert torch.equal(found.scores, own["scores"][order])
    assert torch.equal(found.labels, own["labels"][order])
    padded = torch.nn.functional.interpolate(masks, (64, 96), mode="bilinear")
    expected = torch.nn.functional.interpolate(padded, SIZE, mode="bilinear")[0] > 0
    assert torch.equal(found.masks, expected[order])


def test_masks_of_padded_images_are_resized_in_one_step(masks: torch.Tensor) -> None:
    """Only the cells that the image covers are resized."""
    logits = torch.randn(QUERIES, CLASSES + 1, generator=torch.Generator().manual_seed(1))
    found = instance_inference(
        logits, masks[0], ImageSizes((64, 96), (38, 60), SIZE), detections=3, rule="sigmoid"
    )
    cut = masks[:, :, :10, :15]  # of 9.5 and 15 cells
    expected = torch.nn.functional.interpolate(cut, SIZE, mode="bilinear")[0] > 0
    assert torch.equal(found.masks, expected[found.queries])
