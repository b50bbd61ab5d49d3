"""Planted faults: each has the stated effect on weights, predictions or annotations."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from benchmarks.diagnosis.annotation_faults import annotate_twice, mislabel, remove_objects
from benchmarks.diagnosis.fault import ModelFault
from benchmarks.diagnosis.faults import FAULTS
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.config import BackboneConfig, ModelConfig, TrainConfig
from mpdiag.diagnosis import CAUSES
from mpdiag.models import Mask2Former
from mpdiag.models.decoder import Predictions
from mpdiag.recording import record

L, N, CLASSES = 4, 8, 5


@pytest.fixture(scope="module")
def healthy() -> LoadedCheckpoint:
    torch.manual_seed(0)
    backbone = BackboneConfig(name="resnet18", channels=(8, 8, 16, 16), stem_channels=8)
    config = ModelConfig(
        num_classes=CLASSES,
        backbone=backbone,
        hidden_dim=32,
        mask_dim=16,
        num_heads=4,
        encoder_layers=1,
        encoder_feedforward_dim=32,
        decoder_layers=L,
        feedforward_dim=32,
        num_queries=N,
    )
    recipe = TrainConfig(model=config)
    model = Mask2Former(config).eval()
    return LoadedCheckpoint(Path("model.pth"), "module", "0", model, recipe=recipe)


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 255, (3, 64, 96), generator=generator).byte() for _ in range(2)]


def plant(healthy: LoadedCheckpoint, name: str, severity: float, seed: int = 0) -> LoadedCheckpoint:
    loaded, fault = copy.deepcopy(healthy), FAULTS[name]
    assert isinstance(fault, ModelFault)
    fault.plant(loaded, severity, np.random.default_rng(seed))
    return loaded


@torch.inference_mode()
def predict(loaded: LoadedCheckpoint, images: list[torch.Tensor]) -> Predictions:
    output: Predictions = loaded.model(images).matching
    return output


def changed_queries(before: torch.Tensor, after: torch.Tensor) -> set[int]:
    """Return the queries whose (B, N, ...) values differ."""
    differs = (before != after) & ~(before.isnan() & after.isnan())
    return set(differs.flatten(2).any(2).any(0).nonzero()[:, 0].tolist())


def test_every_fault_has_a_known_cause_and_a_reproducible_effect(
    healthy: LoadedCheckpoint, images: list[torch.Tensor]
) -> None:
    images = images[:1]
    before = predict(healthy, images)
    assert len(FAULTS) >= 18
    for name, fault in FAULTS.items():
        assert fault.cause in CAUSES
        if not isinstance(fault, ModelFault):
            continue
        first, second = (plant(healthy, name, fault.severities[-1]) for _ in range(2))
        assert first.recipe is not None and second.recipe == first.recipe
        one, again, other = (predict(x, images) for x in (first, first, second))
        for field in ("class_logits", "mask_logits"):
            values = [getattr(x, field) for x in (one, again, other)]
            assert torch.equal(values[0].nan_to_num(), values[1].nan_to_num()), name
            assert torch.equal(values[0].nan_to_num(), values[2].nan_to_num()), name
        same = one.class_logits.shape == before.class_logits.shape and (
            torch.equal(one.class_logits, before.class_logits)
            and torch.equal(one.mask_logits, before.mask_logits)
        )
        # The first changes the size of the images; the masks of this model are all large.
        assert same == (name in ("small-input", "ignored-small-objects")), name
    assert torch.equal(predict(healthy, images).mask_logits, before.mask_logits)


def test_class_head(healthy: LoadedCheckpoint, images: list[torch.Tensor]) -> None:
    before = predict(healthy, images).class_logits
    swapped = predict(plant(healthy, "swapped-classes", 1), images).class_logits
    moved = [k for k in range(CLASSES) if not torch.allclose(before[..., k], swapped[..., k])]
    assert len(moved) == 2
    torch.testing.assert_close(before[..., moved], swapped[..., moved[::-1]])
    torch.testing.assert_close(before[..., CLASSES], swapped[..., CLASSES])

    scrambled = plant(healthy, "scrambled-class-head", 0.5).model.decoder.class_embed.weight
    weight = healthy.model.decoder.class_embed.weight
    assert torch.equal(scrambled[-1], weight[-1])
    assert torch.equal(scrambled.sort(0).values, weight.sort(0).values)
    assert 0 < int((scrambled != weight).any(0).sum()) <= weight.shape[1] // 2

    raised = predict(plant(healthy, "no-object-bias", 3), images).class_logits
    torch.testing.assert_close(raised[..., -1], before[..., -1] + 3)
    assert torch.equal(raised[..., :-1], before[..., :-1])


def test_queries(healthy: LoadedCheckpoint, images: list[torch.Tensor]) -> None:
    before = predict(healthy, images)
    dead = predict(plant(healthy, "dead-queries", 0.25), images)
    silent = (dead.class_logits.softmax(-1)[..., -1] > 0.999).all(0).all(0)
    assert int(silent.sum()) == 2 and torch.equal(dead.mask_logits, before.mask_logits)

    copied = predict(plant(healthy, "copied-queries", 0.25), images).mask_logits[-1, 0]
    assert len(copied.flatten(1).unique(dim=0)) == N - 2

    fewer = plant(healthy, "removed-queries", 0.25)
    assert fewer.model.config.num_queries == N - 2
    assert predict(fewer, images).mask_logits.shape[2] == N - 2


def test_masks(healthy: LoadedCheckpoint, images: list[torch.Tensor]) -> None:
    before = predict(healthy, images).mask_logits
    emptied = predict(plant(healthy, "emptied-masks", 0.25), images).mask_logits
    empty = (emptied <= 0).flatten(3).all(3).all(1)  # (L + 1, N)
    chosen = empty[-1].nonzero()[:, 0].tolist()
    first = int(empty[:, chosen].all(1).nonzero()[0])
    assert len(chosen) == 2 and first >= 1 and empty[first:, chosen].all()
    assert torch.equal(emptied[:first], before[:first])

    switched = predict(plant(healthy, "switched-masks", 0.5), images).mask_logits
    assert torch.equal(switched[:-1], before[:-1])
    assert len(changed_queries(before[-1], switched[-1])) == 4
    assert torch.equal(switched[-1].sort(1).values, before[-1].sort(1).values)

    overflown = predict(plant(healthy, "overflow", 0.25), images).mask_logits
    bad = overflown.isnan().flatten(3).any(3).all(1)
    assert bad.sum(1).tolist() == [0, 0, 0, 2, 2]

    shifted = predict(plant(healthy, "shifted-masks", 2), images).mask_logits
    rolls = [before.roll((2 * down, 2 * right), (-2, -1)) for down, right in DIRECTIONS]
    inner = (..., slice(2, -2), slice(2, -2))
    equal = [torch.allclose(shifted[inner], one[inner], atol=1e-4) for one in rolls]
    assert sum(equal) == 1


DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def test_decoder(healthy: LoadedCheckpoint, images: list[torch.Tensor]) -> None:
    def attended(loaded: LoadedCheckpoint) -> list[torch.Tensor]:
        with torch.inference_mode(), record(loaded.model) as recording:
            loaded.model(images)
        return list(recording.attention_mask)

    before, shifted = attended(healthy), attended(plant(healthy, "shifted-attention", 0.25))
    moved = shifted[0].unflatten(-1, (2, 3))  # a shift wraps around, so it keeps the areas
    assert torch.equal(moved.flatten(2).sum(-1), before[0].sum(-1))
    assert not torch.equal(shifted[0], before[0])

    model = plant(healthy, "no-self-attention", 2).model
    silent = [not layer.self_attn.out_proj.weight.any() for layer in model.decoder.layers]
    assert silent == [False, False, True, True]

    for name, layer in (("noised-late-layers", L - 1), ("noised-early-layers", 0)):
        noised = plant(healthy, name, 0.5).model.state_dict()
        weights = healthy.model.state_dict()
        changed = {key for key, value in weights.items() if (noised[key] != value).any()}
        assert changed and all(key.startswith(f"decoder.layers.{layer}.") for key in changed)


def test_scores_of_small_masks(
    healthy: LoadedCheckpoint, images: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = predict(healthy, images)
    area = (before.mask_logits > 0).sum((-2, -1))
    limit = int(area.float().median())
    monkeypatch.setattr("benchmarks.diagnosis.forward_faults.SMALL_CELLS", limit)
    after = predict(plant(healthy, "ignored-small-objects", 5), images)
    raised = after.class_logits - before.class_logits
    assert (area < limit).any()
    torch.testing.assert_close(raised[..., -1], 5.0 * (area < limit))
    assert not raised[..., :-1].any() and torch.equal(after.mask_logits, before.mask_logits)


def test_numbers_and_threshold_of_masks(
    healthy: LoadedCheckpoint, images: list[torch.Tensor]
) -> None:
    before, shrunken = predict(healthy, images), plant(healthy, "shrunken-masks", 2)
    assert torch.equal(predict(shrunken, images).mask_logits, before.mask_logits - 2)

    coarse = predict(plant(healthy, "coarse-numbers", 3), images).class_logits
    numbers = coarse[coarse != 0].frexp().mantissa * 16  # one bit before the others is implicit
    assert torch.equal(numbers, numbers.round())
    assert not torch.equal(coarse, before.class_logits)


def test_scores_and_classes_of_random_scores(
    healthy: LoadedCheckpoint, images: list[torch.Tensor]
) -> None:
    before = predict(healthy, images).class_logits
    after = predict(plant(healthy, "random-scores", 1), images).class_logits
    torch.testing.assert_close(after[..., :-1].softmax(-1), before[..., :-1].softmax(-1))
    scores = 1 - after.softmax(-1)[..., -1]
    assert scores.std() > 0.2  # of a uniform distribution: 0.29


def test_input(healthy: LoadedCheckpoint, images: list[torch.Tensor]) -> None:
    flipped = [image.flip(0) for image in images]
    expected = predict(healthy, flipped).mask_logits
    swapped = predict(plant(healthy, "bgr-input", 1), images).mask_logits
    torch.testing.assert_close(swapped, expected, atol=1e-3, rtol=1e-3)

    loaded = plant(healthy, "wrong-normalisation", 2)
    seen: list[torch.Tensor] = []
    loaded.model.backbone.register_forward_hook(lambda module, args, _: seen.append(args[0]))
    predict(loaded, images)
    pixels = torch.stack(images).float() / 255
    torch.testing.assert_close(seen[0], pixels, atol=1e-5, rtol=1e-5)

    assert healthy.image_size[0] is None
    assert plant(healthy, "small-input", 0.5).image_size[0] == 48


def coco(objects: int) -> dict[str, Any]:
    mask = np.zeros((12, 10), dtype=np.uint8, order="F")
    mask[2:6, 3:7] = 1
    encoded = coco_mask.encode(mask)
    segmentation = {"size": [12, 10], "counts": encoded["counts"].decode()}
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 12, "width": 10}],
        "categories": [{"id": number, "name": str(number)} for number in (3, 5, 9)],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 5, "segmentation": segmentation,
             "area": 16, "iscrowd": 0}
            for number in range(1, objects + 1)
        ],
    }  # fmt: skip


def test_annotations() -> None:
    content = coco(20)
    mislabel(content, 0.25, np.random.default_rng(0))
    wrong = [one["category_id"] for one in content["annotations"] if one["category_id"] != 5]
    assert len(wrong) == 5 and set(wrong) <= {3, 9}

    content = coco(20)
    remove_objects(content, 0.25, np.random.default_rng(0))
    assert len(content["annotations"]) == 15

    content = coco(20)
    annotate_twice(content, 0.25, np.random.default_rng(0))
    added = content["annotations"][20:]
    assert len(added) == 5 and len({one["id"] for one in content["annotations"]}) == 25
    rows, columns = coco_mask.decode(added[0]["segmentation"]).nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 5, 4, 7)
