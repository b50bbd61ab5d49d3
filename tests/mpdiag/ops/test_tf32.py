"""TF32 in matrix products and convolutions."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mpdiag.ops import set_tf32, tf32

from ...processes import Forked

USES = {"none": (False, False), "convolutions": (True, False), "all": (True, True)}


def flags() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = flags()
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def require_the_default() -> None:
    assert flags() == USES["convolutions"]


def test_the_default_of_pytorch_is_convolutions(tmp_path: Path) -> None:
    """In a process of its own, because some libraries change it when they are imported."""
    assert Forked(tmp_path, require_the_default).wait() == 0


@pytest.mark.parametrize("use", USES)
def test_use(use: str) -> None:
    set_tf32("all")
    with tf32(use):
        assert flags() == USES[use]
    assert flags() == USES["all"]
