"""Random transforms: ranges, alignment of image and masks, and reproducibility."""

import colorsys
import pickle
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from mpdiag.config import AugmentConfig, DataConfig
from mpdiag.data import (
    ColorJitter,
    HorizontalFlip,
    OneOf,
    Pad,
    RandomCrop,
    ResizeShortestEdge,
    Sample,
    ScaleJitter,
    Transform,
    build_augmentation,
    drop_empty,
)
from mpdiag.data.transforms import resize


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(height: int, width: int, objects: int = 1) -> Sample:
    """A sample whose channel 0 is the row of a pixel and channel 1 its column; random masks."""
    image = torch.zeros((3, height, width), dtype=torch.uint8)
    image[0] = torch.arange(height)[:, None]
    image[1] = torch.arange(width)
    masks = torch.rand((objects, height, width), generator=seeded(0)) < 0.4
    return Sample(4, "4.jpg", image, masks, torch.arange(objects), (height, width))


def marked(height: int, width: int) -> Sample:
    """Two squares and a disc in bright red, green and blue on black, with their masks."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    masks = torch.zeros((3, height, width), dtype=torch.bool)
    masks[0, height // 10 : height // 2, width // 10 : width // 3] = True
    masks[1, height // 2 :, width // 2 : -width // 8] = True
    masks[2] = (rows - height / 4) ** 2 + (columns - width * 0.7) ** 2 < (height / 6) ** 2
    image = masks.to(torch.uint8) * 255
    return Sample(1, "1.jpg", image, masks, torch.tensor([5, 6, 7]), (height, width))


def areas(*shares: tuple[int, float], side: int = 20) -> Sample:
    """A sample of segments (label, fraction of the width), side by side over the full height."""
    masks = torch.zeros((len(shares), side, side), dtype=torch.bool)
    left = 0.0
    for mask, (_, share) in zip(masks, shares, strict=True):
        mask[:, round(left * side) : round((left + share) * side)] = True
        left += share
    labels = torch.tensor([label for label, _ in shares], dtype=torch.int64)
    image = torch.zeros((3, side, side), dtype=torch.uint8)
    return Sample(1, "1.jpg", image, masks, labels, (side, side))


@pytest.mark.parametrize("size", [(23, 31), (97, 150), (41, 60), (7, 200), (150, 9)])
def test_masks_are_resized_as_by_torchvision(size: tuple[int, int]) -> None:
    sample = places(41, 61, objects=3)
    truth = functional.resize(
        sample.masks.to(torch.uint8), list(size), InterpolationMode.NEAREST_EXACT
    )
    assert torch.equal(resize(sample, size).masks, truth.to(torch.bool))


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (30, 120)])
@pytest.mark.parametrize("target", [(100, 100), (50, 100)])
def test_scale_jitter_with_factor_one_fits_the_target(
    shape: tuple[int, int], target: tuple[int, int]
) -> None:
    """As ResizeScale of detectron2: the largest size of this aspect ratio inside the target."""
    sample = ScaleJitter(target, (1.0, 1.0))(places(*shape), seeded(0))
    ratio = min(target[0] / shape[0], target[1] / shape[1])
    found = tuple(sample.image.shape[-2:])
    for side, full, limit in zip(found, shape, target, strict=True):
        assert abs(side - full * ratio) <= 1 and side <= limit
    assert sample.masks.shape[-2:] == sample.image.shape[-2:]


def test_scale_jitter_draws_factors_uniformly() -> None:
    jitter = ScaleJitter((100, 100), (0.1, 2.0))
    sample = places(25, 50, objects=0)
    sizes = [tuple(jitter(sample, seeded(k)).image.shape[-2:]) for k in range(600)]
    factors = [width / 100 for _, width in sizes]
    assert 0.09 <= min(factors) < 0.15 and 1.95 < max(factors) <= 2.0
    shares = np.histogram(factors, bins=5, range=(0.1, 2.0))[0] / 600
    assert shares == pytest.approx([0.2] * 5, abs=0.06)
    assert all(abs(width / 2 - height) <= 1 for height, width in sizes)


def test_scale_jitter_keeps_at_least_one_pixel() -> None:
    out = ScaleJitter((8, 8), (0.5, 0.5))(places(2, 90), seeded(0))
    assert out.image.shape == (3, 1, 4) and out.masks.shape[-2:] == out.image.shape[-2:]


def test_one_of_chooses_among_sizes() -> None:
    resizing = OneOf([ResizeShortestEdge(side, 100) for side in (10, 20, 30)])
    drawn = Counter(min(resizing(places(40, 60), seeded(k)).image.shape[-2:]) for k in range(900))
    assert set(drawn) == {10, 20, 30}
    assert all(250 < count < 350 for count in drawn.values())


def test_crops_cover_all_positions() -> None:
    sample = places(12, 9, objects=2)
    corners: Counter[tuple[int, int]] = Counter()
    for seed in range(2000):
        out = RandomCrop((8, 6))(sample, seeded(seed))
        top, left = int(out.image[0, 0, 0]), int(out.image[1, 0, 0])
        corners[top, left] += 1
        assert torch.equal(out.image, sample.image[:, top : top + 8, left : left + 6])
        assert torch.equal(out.masks, sample.masks[:, top : top + 8, left : left + 6])
    assert set(corners) == {(top, left) for top in range(5) for left in range(4)}
    assert all(60 < count < 145 for count in corners.values())


def test_crop_does_not_keep_the_storage_of_the_image() -> None:
    """Workers send the whole storage of a tensor."""
    out = RandomCrop((4, 4))(places(100, 100), seeded(0))
    assert out.image.untyped_storage().nbytes() == 3 * 16
    assert out.masks.untyped_storage().nbytes() == 16


def test_images_smaller_than_the_crop_are_padded() -> None:
    sample = places(4, 9, objects=2)
    out = RandomCrop((6, 5))(sample, seeded(3))
    assert out.image.shape == (3, 4, 5)
    padded = Pad((6, 5))(out)
    assert torch.equal(padded.image[:, :4], out.image) and torch.equal(
        padded.masks[:, :4], out.masks
    )
    assert bool((padded.image[:, 4:] == 128).all()) and not padded.masks[:, 4:].any()
    assert padded.image.dtype == torch.uint8 and padded.masks.dtype == torch.bool
    assert Pad((4, 5))(out) is out
    assert padded.original_size == (4, 9)


def largest_share(sample: Sample) -> float:
    """Compute the fraction of the largest class pixel by pixel."""
    counts: Counter[int] = Counter()
    labelled = 0
    for row in range(sample.masks.shape[1]):
        for column in range(sample.masks.shape[2]):
            here = {
                int(label)
                for mask, label in zip(sample.masks, sample.labels, strict=True)
                if mask[row, column]
            }
            counts.update(here)
            labelled += bool(here)
    return max(counts.values()) / labelled if labelled else 1.0


@pytest.mark.parametrize("share", [0.75, 0.85])
def test_crops_dominated_by_one_class_are_avoided(share: float) -> None:
    """Ten attempts with equal success probability."""
    sample = areas((3, 0.2), (3, 0.2), (4, 0.4), side=30)  # the last fifth is unlabelled
    plain = [
        replace(sample, masks=sample.masks[:, :10, left : left + 10]) for left in range(30 - 10 + 1)
    ]
    chance = mean(largest_share(window) >= share for window in plain)
    assert 0.6 < chance < 0.9
    crop = RandomCrop((10, 10), share)
    bad = mean(largest_share(crop(sample, seeded(k))) >= share for k in range(200))
    assert bad == pytest.approx(chance**10, abs=0.04)


def test_instances_of_a_class_are_added() -> None:
    """Two halves of one class allow no crop; of two classes, each crop over the border."""
    for labels, found in (((3, 3), False), ((3, 4), True)):
        sample = areas((labels[0], 0.5), (labels[1], 0.5))
        generator, same = seeded(5), seeded(5)
        first = [RandomCrop((20, 18))(sample, same) for _ in range(10)]
        out = RandomCrop((20, 18), 0.7)(sample, generator)
        assert (torch.equal(out.masks, first[-1].masks) and not found) or (
            torch.equal(out.masks, first[0].masks) and found
        )


def test_overlapping_segments_and_images_without_segments() -> None:
    sample = areas((1, 1.0), (2, 0.5))
    sample.masks[1] = sample.masks[1].roll(-10, 1)
    assert RandomCrop((20, 20), 0.9)(sample, seeded(0)).masks.shape == (2, 20, 20)
    empty = RandomCrop((10, 10), 0.75)(areas(), seeded(0))
    assert empty.masks.shape == (0, 10, 10)


def colored(red: int, green: int, blue: int) -> Sample:
    image = torch.tensor([red, green, blue], dtype=torch.uint8)[:, None, None].expand(3, 2, 2)
    return Sample(1, "1.jpg", image, torch.ones((1, 2, 2)).bool(), torch.zeros(1).long(), (2, 2))


def test_brightness_and_contrast_of_ssd() -> None:
    """Grey has no hue or saturation: the result is (100 + b) * c, each with probability 0.5."""
    values = []
    for seed in range(500):
        out = ColorJitter()(colored(100, 100, 100), seeded(seed))
        assert len(out.image.unique()) == 1
        values.append(int(out.image[0, 0, 0]))
    assert 33 <= min(values) < 45 and 185 < max(values) <= 198
    assert mean(value == 100 for value in values) == pytest.approx(0.25, abs=0.04)
    # b alone changes a value by at most 32; c, alone or after b, by 50 or more.
    assert mean(abs(value - 100) <= 32 for value in values) == pytest.approx(0.8, abs=0.06)
    assert bool((ColorJitter()(colored(0, 0, 0), seeded(1)).image < 49).all())


def test_hue_and_saturation_of_ssd() -> None:
    sample = colored(100, 80, 60)  # never clipped
    hue, _, _ = colorsys.rgb_to_hsv(100, 80, 60)
    turns, chromas = [], []
    for seed in range(500):
        red, green, blue = ColorJitter()(sample, seeded(seed)).image[:, 0, 0].tolist()
        turn = colorsys.rgb_to_hsv(red, green, blue)[0] - hue
        turns.append(abs((turn + 0.5) % 1 - 0.5) * 360)
        chromas.append((max(red, green, blue) - min(red, green, blue)) / 40)
    assert 34 < max(turns) < 41
    assert mean(turn < 4 for turn in turns) == pytest.approx(0.5 + 0.5 * 4 / 36, abs=0.07)
    # Both saturation and contrast scale the difference of the channels by 0.5..1.5.
    assert 0.2 < min(chromas) < 0.35 and 1.9 < max(chromas) < 2.3


def test_color_jitter_changes_the_image_only() -> None:
    sample = marked(40, 60)
    changed = ColorJitter()(sample, seeded(2))
    assert not torch.equal(changed.image, sample.image)
    assert changed.image.dtype == torch.uint8 and type(changed.image) is torch.Tensor
    assert torch.equal(changed.masks, sample.masks)


SETTINGS = {
    "jitter": AugmentConfig(scale_jitter=(0.1, 2.0), crop=(64, 64)),
    "short sides": AugmentConfig(
        short_sides=(32, 64, 100),
        long_side=120,
        crop=(48, 64),
        single_category_max_area=0.75,
        color=True,
    ),
    "inference size": AugmentConfig(),
}


@pytest.mark.parametrize("augment", SETTINGS.values(), ids=SETTINGS)
def test_sample_depends_on_its_generator_only(augment: AugmentConfig) -> None:
    chain = build_augmentation(DataConfig(short_side=40, augment=augment))
    outs = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        outs.append([chain(marked(48, 64), seeded(k)) for k in range(20)])
        assert random.getstate() == states[0]
        assert np.random.get_state()[1].tolist() == states[1]
        assert torch.equal(torch.get_rng_state(), states[2])
    for one, two in zip(*outs, strict=True):
        assert torch.equal(one.image, two.image) and torch.equal(one.masks, two.masks)
    assert len({out.image.numpy().tobytes() for out in outs[0]}) > 1
    again = pickle.loads(pickle.dumps(chain))(marked(48, 64), seeded(3))
    assert torch.equal(again.image, outs[0][3].image)


@pytest.mark.parametrize("augment", [SETTINGS["jitter"], SETTINGS["inference size"]])
def test_masks_stay_aligned_with_the_image(augment: AugmentConfig) -> None:
    """Compared per pixel, except at edges, where colors are mixed."""
    chain = build_augmentation(DataConfig(short_side=97, augment=augment))
    for seed in range(25):
        out = chain(marked(80, 110), seeded(seed))
        assert out.image.shape[-2:] == out.masks.shape[-2:]
        grey = (out.image == 128).all(0)
        for mask, label in zip(out.masks, out.labels.tolist(), strict=True):
            channel = out.image[label - 5]
            assert bool(mask[(channel > 200) & ~grey].all())
            assert not mask[(channel < 50) | grey].any()


def test_augmentation_of_the_coco_models() -> None:
    chain = build_augmentation(DataConfig(augment=SETTINGS["jitter"]))
    kinds = [type(step) for step in chain.transforms[:-1]]
    assert kinds == [ScaleJitter, RandomCrop, HorizontalFlip, Pad]
    assert chain.transforms[-1] is drop_empty
    lost = 0
    for seed in range(40):
        out = chain(marked(48, 64), seeded(seed))
        assert out.image.shape == (3, 64, 64) and out.masks.shape[1:] == (64, 64)
        assert bool(out.masks.flatten(1).any(1).all())
        lost += 3 - len(out.masks)
        grey = (out.image == 128).all(0).nonzero()
        # Padding is at the bottom right, with and without a flip.
        assert not len(grey) or grey.max(0).values.tolist() == [63, 63]
    assert lost > 0


@pytest.mark.parametrize("augment", SETTINGS.values(), ids=SETTINGS)
def test_images_without_segments(augment: AugmentConfig) -> None:
    chain = build_augmentation(DataConfig(short_side=40, augment=augment))
    bare = places(48, 64, objects=0)
    speck = places(48, 64, objects=1)
    speck.masks[:] = False
    speck.masks[0, 0, 0] = True
    gone: list[int] = []
    for seed in range(15):
        for sample in (bare, speck):
            out = chain(sample, seeded(seed))
            assert out.masks.shape == (len(out.labels), *out.image.shape[-2:])
            assert out.masks.dtype == torch.bool
            gone.append(len(out.labels))
    assert 0 in gone


def steps(**settings: object) -> list[Callable[..., Sample] | Transform]:
    return build_augmentation(DataConfig.model_validate(settings)).transforms


def test_sizes_of_augmentation_override_those_of_inference() -> None:
    assert steps(augment={"flip": False}) == [drop_empty]
    (resizing, last) = steps(short_side=80, long_side=90, augment={"flip": False})
    assert isinstance(resizing, ResizeShortestEdge) and last is drop_empty
    assert (resizing.short, resizing.longest) == (80, 90)
    sides = {"short_sides": [10, 20], "long_side": 50, "color": True}
    (choice, *others) = steps(short_side=80, augment=sides)
    assert isinstance(choice, OneOf)
    assert [(t.short, t.longest) for t in choice.transforms] == [(10, 50), (20, 50)]
    assert [type(step) for step in others[:-1]] == [ColorJitter, HorizontalFlip]
