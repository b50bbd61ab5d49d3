import numpy as np
import pytest
import torch
from PIL import Image

from mpdiag.data import Compose, HorizontalFlip, ResizeShortestEdge, Sample, drop_empty


def sample_of(height: int, width: int, objects: int = 2) -> Sample:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    masks = torch.rand((objects, height, width), generator=generator) < 0.4
    return Sample(4, "4.jpg", image, masks, torch.arange(objects), (height, width))


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((426, 640), 800, 1333, (800, 1202)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((300, 900), 800, 1333, (444, 1333)),  # 800 would give 2400: the longer edge is the limit
        ((1000, 1000), 512, 512, (512, 512)),
        ((2, 999), 10, 100, (1, 100)),  # at least one pixel
    ],
)
def test_output_size(
    size: tuple[int, int], short: int, longest: int, expected: tuple[int, int]
) -> None:
    assert ResizeShortestEdge(short, longest).output_size(*size) == expected


def test_resize_keeps_image_and_masks_aligned() -> None:
    resized = ResizeShortestEdge(30, 100)(sample_of(40, 60))
    assert resized.image.shape == (3, 30, 45) and resized.image.dtype == torch.uint8
    assert resized.masks.shape == (2, 30, 45) and resized.masks.dtype == torch.bool
    assert resized.original_size == (40, 60)


def test_resize_agrees_with_pillow() -> None:
    """detectron2 resizes with Pillow: bilinear with antialiasing, nearest for masks."""
    sample = sample_of(41, 61)  # odd, so that no centre is between two source pixels
    resized = ResizeShortestEdge(27, 100)(sample)
    size = (resized.image.shape[2], resized.image.shape[1])
    picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
    truth = np.array(picture.resize(size, Image.Resampling.BILINEAR)).astype(int)
    difference = np.abs(resized.image.permute(1, 2, 0).numpy().astype(int) - truth)
    assert difference.max() <= 1
    for mask, source in zip(resized.masks, sample.masks, strict=True):
        nearest = Image.fromarray(source.numpy()).resize(size, Image.Resampling.NEAREST)
        np.testing.assert_array_equal(mask.numpy(), np.array(nearest))


def test_integer_multiples_of_masks() -> None:
    sample = sample_of(10, 14)
    resized = ResizeShortestEdge(30, 100)(sample)
    blocks = sample.masks.repeat_interleave(3, -1).repeat_interleave(3, -2)
    assert torch.equal(resized.masks, blocks)


def test_resize_without_objects() -> None:
    resized = ResizeShortestEdge(20, 100)(sample_of(40, 60, objects=0))
    assert resized.masks.shape == (0, 20, 30) and resized.masks.dtype == torch.bool


def test_resize_to_the_same_size() -> None:
    sample = sample_of(40, 60)
    assert ResizeShortestEdge(40, 60)(sample) is sample


@pytest.mark.parametrize(("short", "longest"), [(0, 10), (20, 10), (-5, 5)])
def test_invalid_sizes(short: int, longest: int) -> None:
    with pytest.raises(ValueError, match="short"):
        ResizeShortestEdge(short, longest)


def test_flip() -> None:
    sample = sample_of(4, 6)
    flipped = HorizontalFlip(1.0)(sample, torch.Generator())
    for x in range(6):
        assert torch.equal(flipped.image[..., x], sample.image[..., 5 - x])
        assert torch.equal(flipped.masks[..., x], sample.masks[..., 5 - x])
    assert HorizontalFlip(0.0)(sample, torch.Generator()) is sample


def test_flip_generator_and_probability() -> None:
    sample = sample_of(4, 6)
    global_state = torch.random.get_rng_state()

    def flips() -> list[bool]:
        generator = torch.Generator().manual_seed(3)
        return [HorizontalFlip(0.3)(sample, generator) is not sample for _ in range(1000)]

    drawn = flips()
    assert drawn == flips()
    assert 0.25 < sum(drawn) / 1000 < 0.35
    assert torch.equal(torch.random.get_rng_state(), global_state)


def test_drop_empty() -> None:
    sample = sample_of(4, 6, objects=3)
    sample.masks[1] = False
    kept = drop_empty(sample)
    assert kept.labels.tolist() == [0, 2]
    assert torch.equal(kept.masks, sample.masks[[0, 2]])
    assert drop_empty(kept) is kept


def test_compose_runs_in_order() -> None:
    chain = Compose([ResizeShortestEdge(8, 12), HorizontalFlip(1.0), drop_empty])
    sample = sample_of(4, 6, objects=2)
    sample.masks[0] = False
    out = chain(sample, torch.Generator())
    assert out.labels.tolist() == [1]
    assert out.image.shape == (3, 8, 12)
    by_hand = HorizontalFlip(1.0)(ResizeShortestEdge(8, 12)(sample), torch.Generator())
    assert torch.equal(out.image, by_hand.image)
