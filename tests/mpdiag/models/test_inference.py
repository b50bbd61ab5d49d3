"""Post-processing against all masks at once, against results by hand, and its memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mpdiag.models.inference import (
    CHUNK_SIZE,
    ImageSizes,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)

SIZES = ImageSizes((64, 96), (50, 90), (77, 120))
THINGS = [True, True, False, False, True]


@pytest.fixture(params=[0, 1, 2])
def logits(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Forty queries (more than one chunk) of five classes, with smooth masks."""
    generator = torch.Generator().manual_seed(request.param)
    classes = 3 * torch.randn(40, 6, generator=generator)
    coarse = 1.5 * torch.randn(40, 1, 4, 5, generator=generator) - 1
    return classes, F.interpolate(coarse, size=(16, 24), mode="bicubic")[:, 0]


def at_output(masks: Tensor, sizes: ImageSizes = SIZES) -> Tensor:
    padded = F.interpolate(masks[None], sizes.padded, mode="bilinear", align_corners=False)
    cut = padded[:, :, : sizes.image[0], : sizes.image[1]]
    return F.interpolate(cut, sizes.output, mode="bilinear", align_corners=False)[0]


def test_instances_equal_all_pairs(logits) -> None:
    classes, masks = logits
    probability, resized = classes.softmax(-1)[:, :5], at_output(masks)
    found = instance_inference(classes, masks, SIZES, detections=60)
    pairs = sorted(((float(p), n) for n, p in enumerate(probability.flatten())), reverse=True)[:60]
    expected = []
    for score, number in pairs:
        query, label = divmod(number, 5)
        inside = resized[query] > 0
        quality = float(resized[query][inside].sigmoid().mean()) if inside.any() else 0.0
        expected.append((score * quality, query, label, inside))
    expected.sort(key=lambda row: -row[0])
    assert found.scores.tolist() == pytest.approx([row[0] for row in expected], rel=1e-4)
    assert found.queries.tolist() == [row[1] for row in expected]
    assert found.labels.tolist() == [row[2] for row in expected]
    assert torch.equal(found.masks, torch.stack([row[3] for row in expected]))
    assert len(found.queries.unique()) < 60  # a query may yield two detections


def test_instances_store_the_mask_of_a_query_once(logits) -> None:
    found = instance_inference(*logits, SIZES, detections=60)
    assert len(found.query_masks) == len(found.queries.unique()) < 60
    resized = at_output(logits[1]) > 0
    assert torch.equal(found.masks, resized[found.queries])


def test_things_are_selected_after_the_top_k(logits) -> None:
    all_classes = instance_inference(*logits, SIZES, detections=30)
    found = instance_inference(*logits, SIZES, detections=30, things=THINGS)
    is_thing = torch.tensor(THINGS)[all_classes.labels]
    assert 0 < len(found.scores) < 30
    assert torch.equal(found.masks, all_classes.masks[is_thing])
    assert torch.equal(found.labels, all_classes.labels[is_thing])


def test_empty_mask_scores_zero() -> None:
    found = instance_inference(torch.zeros(1, 3), torch.full((1, 16, 24), -1.0), SIZES)
    assert found.scores.tolist() == [0.0, 0.0] and not found.masks.any()


def test_panoptic_equals_all_masks_at_once(logits) -> None:
    classes, masks = logits
    probability, label = classes.softmax(-1).max(-1)
    kept = [n for n in range(40) if label[n] < 5 and probability[n] > 0.6]
    resized = at_output(masks[kept]).sigmoid()
    winner = (probability[kept][:, None, None] * resized).argmax(0)
    ids = torch.zeros(SIZES.output, dtype=torch.int32)
    segments: list[int] = []
    for index, query in enumerate(kept):
        own = resized[index] >= 0.5
        seen, kind = (winner == index) & own, int(label[query])
        if not seen.any() or (winner == index).sum().item() / own.sum().item() < 0.3:
            continue
        if THINGS[kind] or kind not in segments:
            segments.append(kind)
            ids[seen] = len(segments)
        else:
            ids[seen] = segments.index(kind) + 1
    found = panoptic_inference(
        classes, masks, SIZES, things=THINGS, object_mask_threshold=0.6, overlap_threshold=0.3
    )
    assert len(kept) > CHUNK_SIZE and 1 < len(segments) < len(kept)
    assert found.labels.tolist() == segments
    assert torch.equal(found.ids, ids)


def cells(*rows: str) -> Tensor:
    """Return (N, 1, cells) mask logits; probabilities: # 98 %, + 73 %, - 27 %, . 2 %."""
    values = {"#": 4.0, "+": 1.0, "-": -1.0, ".": -4.0}
    return torch.tensor([[[values[cell] for cell in row]] for row in rows])


def test_panoptic_by_hand() -> None:
    masks = cells(
        "###.....",  # thing 0
        "++++....",  # thing 0 too, wins one cell of its four: dropped
        "....##..",  # stuff 1
        ".......#",  # stuff 1 too: the same segment
        "......#.",  # no-object
    )
    classes = torch.tensor([[9.0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 9, 0], [0, 0, 9]])
    sizes = ImageSizes((1, 8), (1, 8), (1, 8))
    found = panoptic_inference(classes, masks, sizes, things=[True, False])
    assert found.ids.tolist() == [[1, 1, 1, 0, 2, 2, 0, 2]]
    assert found.labels.tolist() == [0, 1]


def test_panoptic_thresholds_by_hand() -> None:
    masks = cells(
        "++++-.",  # wins three cells of its four and one beside them: 4 / 4 is enough
        "#.....",
        ".....#",  # class probability 0.7 is not
    )
    classes = torch.tensor([[9.0, 0, 0], [0, 9, 0], [1.54, 0, 0]])
    sizes = ImageSizes((1, 6), (1, 6), (1, 6))
    found = panoptic_inference(classes, masks, sizes, things=[True, False])
    assert found.ids.tolist() == [[2, 1, 1, 1, 0, 0]]
    assert found.labels.tolist() == [0, 1]


def test_first_of_equal_queries_wins() -> None:
    classes = torch.zeros(40, 3)
    classes[:20, 0] = classes[20:, 1] = 9
    sizes = ImageSizes((4, 4), (4, 4), (4, 4))
    found = panoptic_inference(classes, torch.ones(40, 1, 1), sizes, things=[True, True])
    assert found.labels.tolist() == [0] and (found.ids == 1).all()


def test_panoptic_without_objects_is_void(logits) -> None:
    classes = torch.zeros(40, 6)
    classes[:, 5] = 9
    found = panoptic_inference(classes, logits[1], SIZES, things=THINGS)
    assert found.ids.shape == SIZES.output and not found.ids.any() and not len(found.labels)


def test_semantic_with_and_without_resized_scores(logits) -> None:
    classes, masks = logits[0], 3 * logits[1] + 3  # steeper, for many class borders
    probability = classes.softmax(-1)[:, :5]
    early = torch.einsum("nk,nhw->khw", probability, at_output(masks).sigmoid())
    assert torch.equal(semantic_inference(classes, masks, SIZES), early.argmax(0))

    padded = F.interpolate(masks[None], SIZES.padded, mode="bilinear", align_corners=False)[0]
    scores = torch.einsum("nk,nhw->khw", probability, padded.sigmoid())
    late = at_output(scores).argmax(0)
    assert torch.equal(semantic_inference(classes, masks, SIZES, resize_scores=True), late)
    assert not torch.equal(early.argmax(0), late)


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest floating-point tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                self.elements = max(self.elements, leaf.numel())
        return result


TASKS = {
    "instance": lambda *inputs: instance_inference(*inputs, detections=200),
    "panoptic": lambda *inputs: panoptic_inference(
        *inputs, things=THINGS, object_mask_threshold=0.0
    ),
    "semantic": semantic_inference,
}


@pytest.mark.parametrize("task", TASKS)
def test_no_float_copy_of_all_masks(task: str, logits) -> None:
    sizes = ImageSizes((64, 96), (64, 96), (256, 384))
    with LargestTensor() as largest:
        TASKS[task](*logits, sizes)
    assert 0 < largest.elements <= CHUNK_SIZE * 256 * 384 < 40 * 256 * 384
