"""All backends for CUDA against the reference implementation by loops in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mpdiag.ops import ms_deform_attn, use_backend
from mpdiag.ops.backends import BACKENDS, get_backend, unavailable_reason

ON_CUDA = [backend for backend in BACKENDS if not backend.devices or "cuda" in backend.devices]
CASES = [
    pytest.param("plain", "pretended", torch.float32),
    pytest.param("plain", "cuda", torch.float64, marks=pytest.mark.cuda),
    *(
        pytest.param(backend.name, "cuda", dtype, marks=pytest.mark.cuda)
        for backend in ON_CUDA
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    ),
]
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}


def on_device(problem: Any, device: torch.device) -> Any:
    tensors = ("value", "locations", "weights", "upstream")
    return replace(problem, **{name: getattr(problem, name).to(device) for name in tensors})


@pytest.mark.parametrize(("backend", "gpu", "dtype"), CASES, indirect=["gpu"])
def test_equals_the_reference(
    make_problem, backend: str, gpu: torch.device, dtype: torch.dtype
) -> None:
    """With rounded inputs, the result is the exact one rounded once."""
    reason = unavailable_reason(get_backend(backend), "cuda", dtype)
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")
    # 24 is no power of two. A block of `triton` then has 16 queries or more.
    for channels, queries in ((8, 3), (24, 18)):
        problem = make_problem(channels, queries)
        problem.value = problem.value.to(dtype).double()
        problem.upstream = problem.upstream.to(dtype).double()
        with use_backend(backend):
            found = on_device(problem, gpu).run(ms_deform_attn, dtype)
        for tensor, expected in zip(found, problem.solve(), strict=True):
            rtol = ROUNDING.get(tensor.dtype, 1e-5)
            torch.testing.assert_close(tensor.cpu().double(), expected, rtol=rtol, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.parametrize("location", [torch.nan, torch.inf, 3e38])
def test_locations_without_a_finite_pixel_give_nan_in_triton(make_problem, location: float) -> None:
    problem = make_problem(8)
    problem.locations[0, 2, 1, 0, 0, 1] = location
    with use_backend("triton"):
        output, *_ = on_device(problem, torch.device("cuda")).run(ms_deform_attn, torch.float32)
    assert output.isnan().nonzero().tolist() == [[0, 2, c] for c in range(8, 16)]
