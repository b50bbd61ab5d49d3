"""The MP part against sections 4.2 to 4.4 and appendix B of the paper."""

import pytest
import torch

from mpdiag.config import PilotConfig
from mpdiag.matching import Target, match
from mpdiag.models import Mask2Former, PilotInputs, build_pilot_inputs
from mpdiag.models.mask_piloting import (
    add_label_noise,
    group_queries,
    pilot_normalizers,
)


def generators(images: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + image) for image in range(images)]


def pilot_of(targets: list[Target], layers: int = 4, **settings: object) -> PilotInputs:
    config = PilotConfig.model_validate(
        {"num_queries": 7, "noise": "none", "label_noise": 0, **settings}
    )
    source = generators(len(targets))
    pilot = build_pilot_inputs(targets, config, layers=layers, num_classes=3, generators=source)
    assert pilot is not None
    return pilot


def queries(count: int, variant: str, num_groups: int | None = None) -> PilotConfig:
    return PilotConfig.model_validate(
        {"num_queries": count, "variant": variant, "num_groups": num_groups}
    )


def test_groups_of_the_paper() -> None:
    gt, group = group_queries([2, 0, 3], queries(7, "paper"), generators(3))
    assert gt.tolist() == [[0, 1, 0, 1, 0, 1], [-1] * 6, [0, 1, 2, 0, 1, 2]]
    assert group.tolist() == [[0, 0, 1, 1, 2, 2], [-1] * 6, [0, 0, 0, 1, 1, 1]]


def test_official_groups_are_padded_to_the_largest_image() -> None:
    gt, group = group_queries([2, 3], queries(7, "official"), generators(2))
    assert gt.tolist() == [[0, 1, -1, 0, 1, -1], [0, 1, 2, 0, 1, 2]]
    assert group.tolist() == [[0, 0, 0, 1, 1, 1]] * 2


def test_fixed_number_of_groups() -> None:
    """NUM_DN < 100 in the official code: `scalar` groups, each padded to the largest image."""
    gt, group = group_queries([1, 3], queries(2, "official", 2), generators(2))
    assert gt.tolist() == [[0, -1, -1, 0, -1, -1], [0, 1, 2, 0, 1, 2]]
    assert group.tolist() == [[0, 0, 0, 1, 1, 1]] * 2
    gt, _ = group_queries([1, 3], queries(2, "paper", 2), generators(2))
    assert gt.tolist() == [[0, 0, -1, -1, -1, -1], [0, 1, 2, 0, 1, 2]]


def test_more_objects_than_queries_use_a_random_subset() -> None:
    gt, group = group_queries([9, 2], queries(4, "paper"), generators(2))
    assert gt.shape[1] == 4
    assert len(set(gt[0].tolist())) == 4 and gt[0].min() >= 0 and gt[0].max() < 9
    assert (group[0] == 0).all()


def test_more_objects_than_queries_leave_the_official_mp_part_out() -> None:
    """`scalar // max_num` is 0 in the official prepare_for_dn_v5, which then returns None."""
    gt, group = group_queries([9, 2], queries(4, "official"), generators(2))
    assert gt.shape == group.shape == (2, 0)
    assert pilot_normalizers([9, 2], queries(4, "official"), 0.1) == (0, 0)
    assert pilot_normalizers([4, 2], queries(4, "official"), 0.25) == (6, 6.5)  # 2 of padding


def test_batch_without_gt_has_no_mp_part() -> None:
    empty = Target(labels=torch.empty(0, dtype=torch.int64), masks=torch.empty(0, 64, 64).bool())
    config = PilotConfig()
    assert (
        build_pilot_inputs([empty], config, layers=1, num_classes=3, generators=generators(1))
        is None
    )


def test_every_cell_with_a_gt_pixel_is_visible(targets: list[Target]) -> None:
    pilot = pilot_of(targets)
    for size in ((2, 2), (4, 4), (8, 8)):
        cell = 64 // size[0]
        visible = pilot.visible(0, size)
        assert visible is not None
        for image, target in enumerate(targets):
            for gt, mask in enumerate(target["masks"]):
                blocks = mask.view(size[0], cell, size[1], cell).any(3).any(1).flatten()
                for query in (pilot.gt[image] == gt).nonzero().flatten().tolist():
                    assert torch.equal(visible[image, query], blocks)


def test_gt_masks_are_used_in_the_first_layers_only(targets: list[Target]) -> None:
    pilot = pilot_of(targets, layers=2)
    assert [pilot.visible(layer, (8, 8)) is not None for layer in range(4)] == [1, 1, 0, 0]


def test_each_layer_draws_its_own_noise(targets: list[Target]) -> None:
    pilot = pilot_of(targets, noise="point", noise_ratio=1.0)
    first, second = pilot.visible(0, (8, 8)), pilot.visible(1, (8, 8))
    assert first is not None and second is not None and not torch.equal(first, second)


def test_label_noise_changes_its_ratio_of_labels() -> None:
    labels = torch.randint(0, 4, (2, 5000), generator=torch.Generator().manual_seed(1))
    some, all_of_them = PilotConfig(label_noise=0.2), PilotConfig(label_noise=1)
    counts = [5000, 5000]
    noised = add_label_noise(labels, some, 4, counts, generators(2))
    changed = noised != labels
    assert changed.float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert noised.min() >= 0 and noised.max() < 4
    shifts = torch.bincount((noised - labels)[changed] % 4, minlength=4)
    assert shifts[0] == 0 and shifts[1:].min() > 0.28 * shifts.sum()
    padding = torch.full((1, 50), -1)
    assert torch.equal(add_label_noise(padding, all_of_them, 4, [0], generators(1)), padding)
    assert torch.equal(add_label_noise(labels, all_of_them, 1, counts, generators(2)), labels)
    official = PilotConfig(label_noise=1, variant="official")
    noised = add_label_noise(labels, official, 4, counts, generators(2))
    assert (noised == labels).float().mean().item() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("counts", [[2, 0, 3], [9, 2], [1], [4, 4], [0, 5, 7], [7, 6]])
@pytest.mark.parametrize("num_groups", [None, 1, 3])
def test_query_counts_equal_the_groups(
    variant: str, counts: list[int], num_groups: int | None
) -> None:
    config = queries(7, variant, num_groups)
    gt, _ = group_queries(counts, config, generators(len(counts)))
    with_gt = int((gt >= 0).sum())
    padding = int((gt < 0).sum()) if variant == "official" else 0
    assert pilot_normalizers(counts, config, 0.25) == (with_gt, with_gt + 0.25 * padding)


def test_random_draws_do_not_depend_on_the_batch(targets: list[Target]) -> None:
    config = PilotConfig(num_queries=7, label_noise=0.5)
    both = build_pilot_inputs(targets, config, layers=4, num_classes=3, generators=generators(2))
    alone = build_pilot_inputs(
        targets[1:], config, layers=4, num_classes=3, generators=generators(2)[1:]
    )
    assert both is not None and alone is not None
    queries = alone.gt.shape[1]
    assert torch.equal(both.labels[1, :queries], alone.labels[0])
    for layer in range(4):
        first, second = both.visible(layer, (8, 8)), alone.visible(layer, (8, 8))
        assert first is not None and second is not None
        assert torch.equal(first[1, :queries], second[0])


def test_self_attention_mask(targets: list[Target]) -> None:
    pilot = pilot_of(targets)
    visible = pilot.self_visible(6)
    mp = pilot.gt.shape[1]
    assert not visible[:, mp:, :mp].any()
    assert visible[:, mp:, mp:].all()
    assert visible[:, :mp, mp:].all()
    for image in range(2):
        group = pilot.group[image]
        assert torch.equal(visible[image, :mp, :mp], group[:, None] == group[None])


def test_matching_part_is_unchanged_by_the_mp_part(
    small_model: Mask2Former, images: list[torch.Tensor], targets: list[Target]
) -> None:
    with torch.no_grad():
        alone = small_model(images).matching
        together = small_model(images, pilot_of(targets)).matching
    torch.testing.assert_close(alone.mask_logits, together.mask_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone.class_logits, together.class_logits, rtol=1e-4, atol=1e-4)


def test_no_gradient_from_the_matching_part_to_the_mp_part(
    small_model: Mask2Former, images: list[torch.Tensor], targets: list[Target]
) -> None:
    embedding = small_model.decoder.label_embed
    assert embedding is not None
    output = small_model(images, pilot_of(targets))
    (output.matching.mask_logits.square().sum() + output.matching.class_logits.sum()).backward()
    assert embedding.weight.grad is not None
    assert not embedding.weight.grad.any()
    output = small_model(images, pilot_of(targets))
    assert output.piloted is not None
    output.piloted.mask_logits.square().sum().backward()
    assert embedding.weight.grad.any()


def test_matching_part_does_not_depend_on_the_mp_inputs(
    small_model: Mask2Former, images: list[torch.Tensor], targets: list[Target]
) -> None:
    other = [Target(labels=(t["labels"] + 1) % 3, masks=~t["masks"]) for t in targets]
    with torch.no_grad():
        first = small_model(images, pilot_of(targets)).matching
        second = small_model(images, pilot_of(other)).matching
    assert torch.equal(first.mask_logits, second.mask_logits)
    assert torch.equal(first.class_logits, second.class_logits)


def test_groups_differ_only_by_noise(
    small_model: Mask2Former, images: list[torch.Tensor], targets: list[Target]
) -> None:
    with torch.no_grad():
        clean = small_model(images, pilot_of(targets)).piloted
        noisy = small_model(images, pilot_of(targets, label_noise=0.5)).piloted
    first, second = clean.mask_logits[:, 0, :2], clean.mask_logits[:, 0, 2:4]
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    first, second = noisy.mask_logits[:, 0, :2], noisy.mask_logits[:, 0, 2:4]
    assert (first - second).abs().max() > 0.1


def test_bipartite_matching_of_the_mp_part(
    small_model: Mask2Former, images: list[torch.Tensor], targets: list[Target]
) -> None:
    pilot = pilot_of(targets, num_queries=3)
    with torch.no_grad():
        output = small_model(images, pilot).piloted
    found = match(output.class_logits, output.mask_logits, targets)
    assert ((found >= 0).sum(-1) == torch.tensor([2, 3])).all()


def test_model_without_class_embeddings(
    small_model: Mask2Former, images: list[torch.Tensor], targets: list[Target]
) -> None:
    small_model.decoder.label_embed = None
    with pytest.raises(ValueError, match="label_embedding"):
        small_model(images, pilot_of(targets))
