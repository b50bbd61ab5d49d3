"""A small model with images and targets."""

import pytest
import torch

from mpdiag.config import ModelConfig
from mpdiag.matching import Target
from mpdiag.models import Mask2Former


@pytest.fixture
def small_model(small_config: ModelConfig) -> Mask2Former:
    torch.manual_seed(0)
    model = Mask2Former(small_config)
    with torch.no_grad():  # masks of all sizes; those of an untrained model are nearly empty
        model.pixel_decoder.mask_features.weight.mul_(4)
    return model


@pytest.fixture
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(64, 64), (50, 60)]
    return [
        torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes
    ]


@pytest.fixture
def targets() -> list[Target]:
    """Two objects in the first image, three in the second; 64 x 64 padded size."""
    masks = torch.zeros(5, 64, 64, dtype=torch.bool)
    masks[0, 4:30, 4:30] = True
    masks[1, 40:60, 20:60] = True
    masks[2, 0:10, 0:10] = True
    masks[3, 20:50, 30:58] = True
    masks[4, 45, 7] = True  # one pixel
    return [
        Target(labels=torch.tensor([0, 2]), masks=masks[:2]),
        Target(labels=torch.tensor([1, 1, 0]), masks=masks[2:]),
    ]
