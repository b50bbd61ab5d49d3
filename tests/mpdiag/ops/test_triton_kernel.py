"""The Triton kernel in Triton's interpreter against the reference, and compiled for a GPU."""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

INTERPRET = """
import sys, torch, triton
from mpdiag.ops import triton_kernel
for kernel in (triton_kernel._forward, triton_kernel._backward):
    kernel.configs = [triton.Config({"TILE": 64})]  # two queries of 32 channels a block
function = triton_kernel.load()
results = []
for value, shapes, locations, weights, upstream in torch.load(sys.argv[1]):
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    output = function(inputs[0], shapes, inputs[1], inputs[2])
    if upstream is not None:
        output.backward(upstream)
    results.append([output.detach(), *(x.grad for x in inputs)])
torch.save(results, sys.argv[1])
"""


def interpret(problems: Path) -> None:
    """Solve problems in a new process, because Triton reads TRITON_INTERPRET at import."""
    variables = {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", INTERPRET, problems],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_equals_the_reference(make_problem, tmp_path: Path) -> None:
    """24 channels (no power of two) and two images in float32; 8 and two heads in bfloat16."""
    rounded = make_problem(8, 3)
    for name in ("value", "locations", "weights", "upstream"):
        setattr(rounded, name, getattr(rounded, name)[:1])
    rounded.value = rounded.value.bfloat16().double()
    rounded.upstream = rounded.upstream.bfloat16().double()
    problems = {torch.float32: make_problem(24, 3, heads=1), torch.bfloat16: rounded}
    arguments = [
        (
            problem.value.to(dtype),
            problem.shapes,
            problem.locations.float(),
            problem.weights.float(),
            problem.upstream.to(dtype),
        )
        for dtype, problem in problems.items()
    ]
    value, shapes, locations, weights, _ = deepcopy(arguments[1])
    locations[0, 0, 0, 0, 0, 0], locations[0, 1, 0, 0, 0, 1] = torch.nan, torch.inf
    arguments.append((value, shapes, locations, weights, None))
    path = tmp_path / "problems"
    torch.save(arguments, path)
    interpret(path)
    *found_results, with_nan = torch.load(path)
    assert with_nan[0].isnan().nonzero().tolist() == [[0, q, c] for q in (0, 1) for c in range(8)]
    for problem, results in zip(problems.values(), found_results, strict=True):
        for found, expected in zip(results, problem.solve(), strict=True):
            # The interpreter truncates to bfloat16; a GPU rounds.
            rounding = 2**-7 if found.dtype == torch.bfloat16 else 1e-5
            torch.testing.assert_close(found.double(), expected, rtol=rounding, atol=1e-4)


@pytest.mark.slow
def test_compiles_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mpdiag.ops import triton_kernel

    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    sizes = {"LEVELS": 3, "POINTS": 4, "WIDTH": 32, "LARGE": True}
    types = {"shapes": "*i32", "value": "*bf16", "output": "*bf16", "grad": "*bf16"}
    types |= dict.fromkeys(("cells", "queries", "heads", "channels"), "i32")
    types |= dict.fromkeys((*sizes, "TILE"), "constexpr")
    for tuner in (triton_kernel._forward, triton_kernel._backward):
        tiles = sorted(config.kwargs["TILE"] for config in tuner.configs)
        assert tiles == [512, 512, 1024, 1024, 2048, 2048]
        assert tuner.reset_to_zero == (["grad_value"] if "grad_value" in tuner.arg_names else [])
        values = sizes | {"TILE": tiles[0]}  # the fastest to compile
        names = tuner.arg_names
        signature = {name: types.get(name, "*fp32") for name in names}
        constants = {(i,): values[name] for i, name in enumerate(names) if name in values}
        source = ASTSource(tuner.fn, signature, constexprs=constants)
        options = {"enable_fp_fusion": True}
        compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
        assert compiled.asm["cubin"]
