"""TF32 in matrix products and convolutions."""

from collections.abc import Iterator

import pytest
import torch

from mpdiag.ops import set_tf32, tf32

USES = {"none": (False, False), "convolutions": (True, False), "all": (True, True)}


def flags() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = flags()
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_the_default_of_pytorch_is_convolutions() -> None:
    assert flags() == USES["convolutions"]


@pytest.mark.parametrize("use", USES)
def test_use(use: str) -> None:
    set_tf32("all")
    with tf32(use):
        assert flags() == USES[use]
    assert flags() == USES["all"]
