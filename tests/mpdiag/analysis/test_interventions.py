"""Attention masks, self-attention and queries with interventions; all else stays the same."""

import copy

import pytest
import torch

from mpdiag.analysis.adapter import LayerPredictions
from mpdiag.analysis.interventions import Intervention, intervene, silence_queries
from mpdiag.config import ModelConfig
from mpdiag.errors import ConfigError
from mpdiag.matching import Target
from mpdiag.models import Mask2Former
from mpdiag.recording import family_of, record

SIZE = (64, 96)
L, N = 4, 10


@pytest.fixture(scope="module")
def model(small_config: ModelConfig) -> Mask2Former:
    torch.manual_seed(0)
    config = small_config.model_copy(update={"num_queries": N})
    model = Mask2Former(config).eval()
    with torch.no_grad():
        model.decoder.query_feat.weight.mul_(3)
    return model


@pytest.fixture
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 255, (3, *SIZE), generator=generator).byte() for _ in range(2)]


def targets() -> list[Target]:
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 5:20, 40:70] = True
    masks[1, 63, 95] = True
    empty = Target(labels=torch.empty(0, dtype=torch.int64), masks=masks[:0])
    return [Target(labels=torch.tensor([0, 1]), masks=masks), empty]


def attended(
    model: Mask2Former, images: list[torch.Tensor], *texts: str
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return attention masks of layers 1..L and all predicted masks with these interventions."""
    last = torch.full((2, N), -1)
    last[0, 3], last[0, 7] = 0, 1
    changes = [Intervention.parse(text, L, N) for text in texts]
    points = family_of(model).intervention_points(model)
    assert points is not None and (points.num_layers, points.num_queries) == (L, N)
    with (
        torch.inference_mode(),
        intervene(model, points, changes, SIZE, targets(), last),
        record(model) as recording,
    ):
        model(images)
    return recording.attention_mask, recording.mask_logits


def test_matched_queries_attend_within_gt_masks(
    model: Mask2Former, images: list[torch.Tensor]
) -> None:
    baseline, baseline_masks = attended(model, images)
    visible, masks = attended(model, images, "attention=gt:2-3")
    grids = [(2, 3), (4, 6), (8, 12), (2, 3)]
    for layer in (2, 3):
        rows, columns = grids[layer - 1]
        for query, truth in ((3, targets()[0]["masks"][0]), (7, targets()[0]["masks"][1])):
            cells = truth.view(rows, SIZE[0] // rows, columns, SIZE[1] // columns).any(3).any(1)
            assert torch.equal(visible[layer - 1][0, query].view(rows, columns), cells)
    assert torch.equal(visible[0], baseline[0])
    # Layer 2 is the first that differs, and only for matched queries; the second image has none.
    others = [query for query in range(N) if query not in (3, 7)]
    assert torch.equal(visible[1][0, others], baseline[1][0, others])
    assert torch.equal(masks[:2], baseline_masks[:2]) and torch.equal(
        masks[:, 1], baseline_masks[:, 1]
    )
    assert not torch.equal(masks[2, 0], baseline_masks[2, 0])


def test_no_mask_and_the_mask_of_the_previous_layer(
    model: Mask2Former, images: list[torch.Tensor]
) -> None:
    baseline, _ = attended(model, images)
    visible, _ = attended(model, images, "attention=none:1", "attention=previous:2,4:0-4")
    assert visible[0].all() and not baseline[0].all()
    assert visible[1][:, :5].all()  # as in layer 1
    fine, coarse = visible[2].view(2, N, 8, 12), visible[3].view(2, N, 2, 3)
    touched = fine.view(2, N, 2, 4, 3, 4).any(5).any(3)
    assert torch.equal(coarse[:, :5], touched[:, :5])
    assert not torch.equal(coarse[:, 5:], touched[:, 5:])


def test_later_interventions_override_and_hooks_are_removed(
    model: Mask2Former, images: list[torch.Tensor]
) -> None:
    baseline, _ = attended(model, images)
    visible, _ = attended(model, images, "attention=gt:1", "attention=none:all:3")
    assert visible[0][0, 3].all() and not visible[0][0, 7].all()
    with torch.inference_mode(), record(model) as recording:
        model(images)
    assert all(map(torch.equal, recording.attention_mask, baseline))


def test_without_self_attention_a_query_depends_on_no_other(
    model: Mask2Former, images: list[torch.Tensor]
) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.decoder.query_feat.weight[5:] += 1
    with_others = [attended(one, images)[1] for one in (model, other)]
    alone = [attended(one, images, "self-attention=none:all")[1] for one in (model, other)]
    assert not torch.allclose(with_others[0][-1, :, :5], with_others[1][-1, :, :5])
    torch.testing.assert_close(alone[0][:, :, :5], alone[1][:, :, :5])
    _, late = attended(model, images, "self-attention=none:3-4")
    assert torch.equal(late[:3], with_others[0][:3])
    assert not torch.equal(late[3], with_others[0][3])


def test_silent_queries_predict_no_object() -> None:
    class_logits = torch.randn(L + 1, 2, N, 6, generator=torch.Generator().manual_seed(0))
    before = LayerPredictions(class_logits, torch.zeros(L + 1, 2, N, 3, 3))
    changes = [Intervention.parse("queries=none:0,7-8", L, N)]
    after = silence_queries(before, changes).class_logits
    assert after[:, :, [0, 7, 8]].softmax(-1)[..., -1].min() > 1 - 1e-6
    kept = [1, 2, 3, 4, 5, 6, 9]
    assert torch.equal(after[:, :, kept], class_logits[:, :, kept])
    assert silence_queries(before, []) is before


def test_parse() -> None:
    assert Intervention.parse("attention=gt:1-3", L, N) == Intervention(
        "gt", frozenset({1, 2, 3}), None
    )
    found = Intervention.parse("attention=none:all:0-1,9", L, N)
    assert found.layers == {1, 2, 3, 4} and found.queries == {0, 1, 9}
    found = Intervention.parse("self-attention=none:2", L, N)
    assert found == Intervention("none", frozenset({2}), None, "self-attention")
    for text, message in (
        ("attention=gt", "for example attention=gt:1-3"),
        ("self-attention=gt:1", "self-attention=none:LAYERS"),
        ("self-attention=none:1:2", "self-attention=none:LAYERS"),
        ("queries=none:10", "give queries in 0-9"),
        ("queries=none", "queries=none:QUERIES"),
        ("masks=gt:1", "for example attention=gt:1-3"),
        ("attention=own:1", "for example attention=gt:1-3"),
        ("attention=gt:0", "0 is out of range; give layers in 1-4"),
        ("attention=gt:3-5", "3-5 is out of range"),
        ("attention=gt:3-2", "3-2 is out of range"),
        ("attention=gt:x", "x is out of range"),
        ("attention=gt:1:10", "10 is out of range; give queries in 0-9"),
        ("attention=previous:1-2", "layer 1 has no previous layer"),
    ):
        with pytest.raises(ConfigError, match=message):
            Intervention.parse(text, L, N)
