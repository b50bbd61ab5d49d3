"""`mpdiag bench gpu` on the pretended CUDA device, so that no time of a GPU is lost to an error."""

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pretend_cuda import pretend_cuda
from torch import nn

from benchmarks import gpu
from benchmarks.fresh_process import ProcessFailedError, call, run_in_fresh_process
from benchmarks.gpu import bench_gpu, gpu_table
from benchmarks.gpu_steps import STEPS, read_junit
from benchmarks.host_waits import count_waits
from mpdiag.errors import ConfigError, DependencyError
from mpdiag.models import Mask2Former
from mpdiag.ops import use_backend
from mpdiag.ops.backends import get_backend

# One precision stands for all, and one variant.
TOY_STEPS = {
    name: step
    for name, step in STEPS.items()
    if not name.startswith(("training", "batch", "compile")) or name == "training, bf16 and tf32"
}


@pytest.fixture
def device() -> Iterator[None]:
    """Run the test on the pretended device, with the only attention that does not need a GPU."""
    with use_backend("plain"), pretend_cuda([]):
        yield


@pytest.mark.slow
def test_all_steps_run_at_toy_size_on_the_gpu(
    device, render: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.timing.COPY_SIZE", 2**16)
    monkeypatch.setattr("benchmarks.training.WARM_UP", 1)
    monkeypatch.setattr("benchmarks.ops.BACKENDS", [get_backend("plain")])
    monkeypatch.setattr("benchmarks.gpu_steps.PRECISIONS", {"bf16 and tf32": ("bf16", "all")})
    monkeypatch.setattr(gpu, "STEPS", TOY_STEPS)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)  # of CUDA only
    devices: list[str] = []

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(module, Mask2Former):
            devices.append(str(output.matching.mask_logits.device))

    handle = nn.modules.module.register_module_forward_hook(note)
    file, lines = tmp_path / "gpu.json", []
    try:
        content = bench_gpu(
            file,
            minutes=100,
            size="toy",
            report=lines.append,
            execute=lambda run, seconds: call(run),
        )
    finally:
        handle.remove()
    errors = {name: entry.get("error") for name, entry in content["steps"].items()}
    assert errors == dict.fromkeys(TOY_STEPS), "\n".join(filter(None, errors.values()))
    assert len(lines) == len(TOY_STEPS)
    assert len(devices) > 20 and set(devices) == {"cuda:0"}  # also inference beside the analysis
    assert content["steps"]["analysis"]["result"]["device"] == torch.cuda.get_device_name()
    assert content["steps"]["tests"]["result"]["passed"]
    assert json.loads(file.read_text()) == json.loads(json.dumps(content))
    text = render(gpu_table(content))
    assert all(name in text for name in TOY_STEPS) and "inference, bf16 and tf32" in text


def failing(scale: object, official: object) -> dict[str, object]:
    raise ZeroDivisionError("on purpose")


def test_budget_resume_and_failures(
    device, render: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps run in order while time is left, failed ones last; finished ones are not repeated."""
    ran: list[str] = []

    def step(name: str, seconds: float) -> SimpleNamespace:
        def run(scale: object, official: object) -> dict[str, object]:
            ran.append(name)
            return {"figures": {"inference, float32": 0.02}}

        return SimpleNamespace(run=run, seconds=seconds)

    steps = {"first": step("first", 1000), "broken": SimpleNamespace(run=failing, seconds=1)}
    steps |= {"long": step("long", 1000), "short": step("short", 1)}
    monkeypatch.setattr(gpu, "STEPS", steps)
    file, lines, limits = tmp_path / "gpu.json", [], []

    def execute(run: Callable[[], object], seconds: float) -> object:
        limits.append(seconds)
        return call(run)

    def run(minutes: float = 1, size: str = "full") -> dict[str, dict[str, object]]:
        content = bench_gpu(
            file,
            minutes=minutes,
            size=size,
            report=lines.append,
            execute=execute,
        )
        return content["steps"]

    found = run()
    assert limits == [1000, 3, 3]  # a step that hangs leaves time for the others
    assert ran == ["first", "short"] and "left for the next call" in "".join(lines)
    assert "ZeroDivisionError: on purpose" in found["broken"]["error"]
    text = render(gpu_table(json.loads(file.read_text())))
    assert "broken: ZeroDivisionError: on purpose" in text
    steps["broken"] = step("broken", 1)
    assert list(run(minutes=100)) == ["first", "broken", "short", "long"]
    assert ran == ["first", "short", "long", "broken"]
    run(minutes=100)
    assert len(ran) == 4

    with pytest.raises(ConfigError, match="another size"):
        run(size="toy")
    file.write_text("[1, 2")
    with pytest.raises(ConfigError, match="not readable as JSON"):
        run()


def test_no_gpu(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="no CUDA GPU"):
        bench_gpu(tmp_path / "gpu.json", minutes=1)


def test_process_of_its_own() -> None:
    assert run_in_fresh_process(dict, 60) == {}
    with pytest.raises(ProcessFailedError, match="status 3"):
        run_in_fresh_process(Exit(3), 60)
    with pytest.raises(ProcessFailedError, match="within 0 seconds"):
        run_in_fresh_process(dict, 0)


class Exit:
    """Ends the process that unpickles it."""

    def __init__(self, status: int) -> None:
        self.status = status

    def __call__(self) -> None: ...

    def __reduce__(self) -> tuple[object, tuple[int]]:
        import os

        return os._exit, (self.status,)


def test_waits_are_counted_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def run() -> None:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the calls before the counted one
        found = count_waits(run)
    ((line, times),) = found["lines"].items()
    assert line.startswith("tests/pretend_cuda/test_benchmarks_on_gpu.py:") and times == 3
    assert modes == ["warn", "default"] and found["calls"] == {}


def test_report_of_pytest(tmp_path: Path) -> None:
    cases = {
        "good": "",
        "bad": '<failure message="1 != 2">x</failure>',
        "broken": '<error message="no fixture"/>',
        "later": '<skipped message="no package"/>',
    }
    inner = "".join(f'<testcase classname="t" name="{k}">{v}</testcase>' for k, v in cases.items())
    file = tmp_path / "report.xml"
    file.write_text(f"<testsuites><testsuite>{inner}</testsuite></testsuites>")
    assert read_junit(file) == {
        "passed": ["t::good"],
        "failed": {"t::bad": "1 != 2", "t::broken": "no fixture"},
        "skipped": {"t::later": "no package"},
    }
