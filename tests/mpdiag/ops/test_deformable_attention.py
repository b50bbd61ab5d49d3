"""Values and gradients of all CPU backends against the reference implementation by loops."""

import pytest
import torch

from mpdiag.ops import ms_deform_attn, use_backend

ON_CPU = ["cpp", "plain"]


@pytest.fixture(params=ON_CPU)
def backend(request: pytest.FixtureRequest):
    with use_backend(request.param):
        yield request.param


@pytest.mark.parametrize("channels", [1, 5, 8, 16, 32, 64])
def test_equals_the_reference(make_problem, backend, channels) -> None:
    problem = make_problem(channels)
    for found, expected in zip(
        problem.run(ms_deform_attn, torch.float64), problem.solve(), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_float32(make_problem, backend) -> None:
    problem = make_problem(32)
    for found, expected in zip(
        problem.run(ms_deform_attn, torch.float32), problem.solve(), strict=True
    ):
        torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_sums_in_float32(make_problem, backend, autocast) -> None:
    """With rounded inputs, the result is the exact one rounded once."""
    problem = make_problem(32)
    problem.value = problem.value.bfloat16().double()
    problem.upstream = problem.upstream.bfloat16().double()
    forward = torch.autocast("cpu", torch.bfloat16, enabled=autocast)(ms_deform_attn)
    found = problem.run(forward, torch.bfloat16)
    for tensor, expected in zip(found, problem.solve(), strict=True):
        rounding = 2**-8 if tensor.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(tensor.double(), expected, rtol=rounding, atol=1e-4)


def test_gradcheck(make_problem, backend) -> None:
    problem = make_problem(2, queries=2)
    inputs = [x.requires_grad_() for x in (problem.value, problem.locations, problem.weights)]
    assert torch.autograd.gradcheck(
        lambda value, *others: ms_deform_attn(value, problem.shapes, *others), inputs
    )


def test_one_sided_derivatives_equal_pytorch(make_problem) -> None:
    """An untrained model samples at cell centres, where the one-sided derivatives differ."""
    problem = make_problem(8, queries=100)
    sizes = torch.tensor([(width, height) for height, width in problem.shapes])[:, None]
    pixels = (problem.locations * sizes).floor()
    problem.locations = ((pixels.float() + 0.5) / sizes).double()
    results = []
    for name in ("cpp", "plain"):
        with use_backend(name):
            results.append(problem.run(ms_deform_attn, torch.float32))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-4)


def test_no_queries(backend) -> None:
    value, shapes = torch.rand(1, 6, 2, 8), [(2, 3)]
    found = ms_deform_attn(value, shapes, torch.rand(1, 0, 2, 1, 4, 2), torch.rand(1, 0, 2, 1, 4))
    assert found.shape == (1, 0, 16)


@pytest.mark.parametrize("location", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_locations_without_a_finite_pixel_give_nan(backend, make_problem, location: float) -> None:
    problem = make_problem(8)
    problem.locations[0, 2, 1, 0, 0, 1] = location
    output, *_ = problem.run(ms_deform_attn, torch.float32)
    assert output.isnan().nonzero().tolist() == [[0, 2, c] for c in range(8, 16)]


def test_results_do_not_depend_on_threads(make_problem) -> None:
    problem = make_problem(16, queries=40)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(problem.run(ms_deform_attn, torch.float32))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_strided_arguments(make_problem, backend) -> None:
    problem = make_problem(8)
    expected = problem.run(ms_deform_attn, torch.float64)
    problem.value = problem.value.transpose(1, 2).contiguous().transpose(1, 2)
    problem.upstream = problem.upstream[:, :1].expand_as(problem.upstream)
    problem.weights = problem.weights.flip(0).flip(0)
    found = problem.run(ms_deform_attn, torch.float64)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1:], problem.solve()[1:])


@pytest.mark.parametrize("change", ["cells", "levels", "points", "batch"])
def test_invalid_shapes(make_problem, change) -> None:
    problem = make_problem(8)
    if change == "cells":
        problem.value = problem.value[:, :-1]
    elif change == "levels":
        problem.shapes = [*problem.shapes[:-1], (10, 1), (0, 7)]
    elif change == "points":
        problem.weights = problem.weights[..., :-1]
    else:
        problem.value = problem.value[:1]
    with pytest.raises(ValueError, match="do not match"):
        ms_deform_attn(problem.value, problem.shapes, problem.locations, problem.weights)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of a tensor in opcheck
def test_operator_compiles_without_graph_break(make_problem) -> None:
    problem = make_problem(8)
    with use_backend("cpp"):
        expected = problem.run(ms_deform_attn, torch.float32)
        compiled = torch.compile(ms_deform_attn, fullgraph=True, backend="aot_eager")
        found = problem.run(compiled, torch.float32)
    assert all(map(torch.equal, found, expected))
    tensors = (problem.value, problem.locations, problem.weights)
    value, locations, weights = (x.float().requires_grad_() for x in tensors)
    flat = [size for shape in problem.shapes for size in shape]
    arguments = (value, flat, locations, weights)
    torch.library.opcheck(torch.ops.mpdiag.ms_deform_attn_cpu, arguments)


def test_compiled_function_recompiles_for_another_backend(make_problem) -> None:
    problem = make_problem(8)
    compiled = torch.compile(ms_deform_attn, fullgraph=True, backend="aot_eager")
    with use_backend("cpp"):
        problem.run(compiled, torch.float32)
    with use_backend("plain"):
        expected = problem.run(ms_deform_attn, torch.float32)
        found = problem.run(compiled, torch.float32)
    assert torch.equal(found[0], expected[0])


def test_second_derivative_is_not_implemented(make_problem) -> None:
    problem = make_problem(8)
    weights = problem.weights.requires_grad_()
    output = ms_deform_attn(problem.value, problem.shapes, problem.locations, weights)
    (grad,) = torch.autograd.grad(output.square().sum(), weights, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        grad.sum().backward()
