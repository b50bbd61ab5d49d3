"""The device of `--device`."""

import pytest
import torch

from mpdiag.errors import ConfigError
from mpdiag.ops.devices import choose_device, find_device


def test_named_and_default_device(gpu: torch.device) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("cuda:0") == gpu
    assert choose_device(None).type == "cuda"
    assert find_device("cuda") == torch.device("cuda")


@pytest.mark.parametrize("name", ["cuda:99", "mps", "meta", "tpu", "", "cpu cuda"])
def test_unknown_device_is_an_error(name: str) -> None:
    for function in (choose_device, find_device):
        with pytest.raises(ConfigError, match=r"^--device .*: is not available; choose cpu, or"):
            function(name)
