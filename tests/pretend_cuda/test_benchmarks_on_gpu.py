"""Benchmarks on the pretended CUDA device, so that they run when a GPU is there."""

from collections.abc import Iterator

import pytest
import torch
from pretend_cuda import pretend_cuda
from torch import nn

from benchmarks.analysis import bench_analysis
from mpdiag.config import ModelConfig
from mpdiag.models import Mask2Former
from mpdiag.ops import use_backend


@pytest.fixture
def gpu() -> Iterator[None]:
    """Run the test on the pretended device, with the only attention that does not need a GPU."""
    with use_backend("plain"), pretend_cuda([]):
        yield


def test_inference_and_analysis_run_on_the_same_device(gpu, small_config: ModelConfig) -> None:
    devices: list[str] = []

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(module, Mask2Former):
            devices.append(str(output.matching.mask_logits.device))

    handle = nn.modules.module.register_module_forward_hook(note)
    try:
        results = bench_analysis(2, (64, 96), small_config)
    finally:
        handle.remove()
    assert results.device == torch.cuda.get_device_name()
    assert len(devices) > 4 and set(devices) == {"cuda:0"}
