"""Post-processing against that of the official implementation on its own predictions."""

import pytest
import torch
import torch.nn.functional as F

from mpdiag.models.inference import (
    ImageSizes,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)

THINGS = [True] * 4 + [False] * 3


@pytest.fixture(params=[0, 1])
def image(case, request: pytest.FixtureRequest):
    """Return the last class logits, mask logits and sizes of an image, and its number."""
    height, width = case.figures["sizes"][request.param]
    scale = 2 if request.param == 0 else 1  # image 0 is resized to twice its size
    sizes = ImageSizes((96, 96), (height, width), (scale * height, scale * width))
    logits = [case.tensors[f"eval.pred_{kind}"][-1, request.param] for kind in ("logits", "masks")]
    return logits[0], logits[1], sizes, request.param


def margin(
    class_logits: torch.Tensor, mask_logits: torch.Tensor, sizes: ImageSizes
) -> torch.Tensor:
    """Return (H, W) margins of the best query's class times mask probability over the second."""
    scores, labels = class_logits.double().softmax(-1).max(-1)
    masks = F.interpolate(mask_logits[None].double(), sizes.padded, mode="bilinear")
    masks = masks[..., : sizes.image[0], : sizes.image[1]]
    masks = F.interpolate(masks, sizes.output, mode="bilinear")[0].sigmoid()
    weighted = (scores * (labels < len(THINGS)) * (scores > 0.12))[:, None, None] * masks
    best = weighted.topk(2, dim=0).values
    return best[0] - best[1]


def test_semantic(case, image) -> None:
    *arguments, number = image
    assert torch.equal(semantic_inference(*arguments), case.tensors[f"eval.sem_seg.{number}"])


def test_instances(case, image) -> None:
    *arguments, number = image
    found = instance_inference(*arguments, detections=10, things=THINGS)
    scores, order = case.tensors[f"eval.instances.scores.{number}"].sort(descending=True)
    torch.testing.assert_close(found.scores, scores, rtol=1e-5, atol=0)
    assert torch.equal(found.labels, case.tensors[f"eval.instances.classes.{number}"][order])
    areas = case.tensors[f"eval.instances.mask_area.{number}"][order]
    assert torch.equal(found.masks.sum((1, 2)), areas.long())


def test_panoptic(case, image) -> None:
    *arguments, number = image
    found = panoptic_inference(
        *arguments, things=THINGS, object_mask_threshold=0.12, overlap_threshold=0.2
    )
    # Rounding, which differs between processors, decides between nearly equal queries.
    decided = margin(*arguments) > 3e-7  # a few units in the last place of float32
    assert (~decided).float().mean() < 0.001
    assert torch.equal(found.ids[decided], case.tensors[f"eval.panoptic.{number}"].int()[decided])
    expected = case.figures["panoptic"][number]
    assert [segment["id"] for segment in expected] == list(range(1, len(found.labels) + 1))
    assert found.labels.tolist() == [segment["category_id"] for segment in expected]
