"""`mpdiag bench gpu`: everything worth knowing of a GPU, in order of importance, within a budget.

The results are one JSON file, replaced atomically after each step. A step that is in it is skipped,
so that further calls continue where the first one ended. Each step runs in a process of its own,
because an error of CUDA makes a process unusable.
"""

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import rich.box
import torch
from rich.markup import escape
from rich.table import Table

from benchmarks.fresh_process import ProcessFailedError, run_in_fresh_process
from benchmarks.gpu_scale import SCALES
from benchmarks.gpu_steps import CHECKOUT, STEPS, Result
from benchmarks.roofline import read_predictions
from mpdiag.errors import ConfigError, DependencyError
from mpdiag.store.files import replace_json
from mpdiag.untrusted import read_json

PACKAGES = ("torch", "triton", "deformops", "torch-ms-deform-attn", "transformers", "detectron2")

Execute = Callable[[Callable[[], Result], float], Result]


def bench_gpu(
    file: Path,
    *,
    minutes: float,
    size: str = "full",
    official: Path | None = None,
    report: Callable[[str], None] = print,
    execute: Execute = run_in_fresh_process,
) -> dict[str, Any]:
    """Run the steps that `file` does not have yet, as far as the time suffices.

    Steps that failed before run again, after the others.

    Args:
        file: the JSON file.
        minutes: time for all steps of this call. The first one runs in any case.
        size: "full", or "toy" to see whether everything runs.
        official: a checkout of Mask2Former or MP-Former to compare with.
        report: called with a line of progress.
        execute: calls the function of a step within a number of seconds.

    Returns:
        The content of the file.

    Raises:
        DependencyError: there is no GPU.
        ConfigError: the file is of another benchmark, GPU, size or software.
    """
    if not torch.cuda.is_available():
        raise DependencyError("bench gpu: PyTorch finds no CUDA GPU; run it on a machine with one")
    content = _open(file, size, official)
    results = content["steps"]
    deadline = time.monotonic() + 60 * minutes
    for number, name in enumerate(unfinished_steps(content)):
        remaining = deadline - time.monotonic()
        estimate = STEPS[name].seconds if size == "full" else 0
        if number and remaining < estimate:
            report(f"{name}: left for the next call; it takes about {estimate:.0f} seconds")
            continue
        entry: dict[str, Any] = {"date": _now(), "commit": _output("git", "rev-parse", "HEAD")}
        started = time.monotonic()
        try:
            run = partial(STEPS[name].run, SCALES[size], official)
            # A step that hangs leaves time for the others.
            limit = max(estimate, min(remaining, 3 * estimate)) or remaining
            entry["result"] = execute(run, limit)
        except ProcessFailedError as error:
            entry["error"] = str(error)
        entry["seconds"] = round(time.monotonic() - started, 1)
        results[name] = entry
        replace_json(file, content)
        outcome = "failed" if "error" in entry else "done"
        report(f"{name}: {outcome} in {entry['seconds']:.0f} seconds")
    return content


def unfinished_steps(content: Mapping[str, Any]) -> list[str]:
    """Return the names of the steps that did not run yet, then of those that failed."""
    done = content["steps"]
    missing = [name for name in STEPS if name not in done]
    return missing + [name for name in STEPS if "error" in done.get(name, {})]


def _open(file: Path, size: str, official: Path | None) -> dict[str, Any]:
    """Return the content of the file; that of a new one if it does not exist."""
    new = {
        "command": shlex.join(["mpdiag", *sys.argv[1:]]),
        "date": _now(),
        "size": size,
        "official": None if official is None else official.name,
        "hardware": _hardware(),
        "versions": _versions(),
        "steps": {},
    }
    if not file.exists():
        return new
    try:
        found = read_json(file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file}: is not readable as JSON ({error}); give another --json"
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("steps"), dict):
        raise ConfigError(f"{file}: is not of mpdiag bench gpu; give another --json")
    for key in ("size", "official", "hardware", "versions"):
        if found.get(key) != new[key]:
            raise ConfigError(f"{file}: was written with another {key}; give another --json")
    return found


def _hardware() -> dict[str, Any]:
    gpu = torch.cuda.get_device_properties(0)
    query = ("--query-gpu=driver_version", "--format=csv,noheader", "--id=0")
    return {
        "gpu": gpu.name,
        "gpu_memory_bytes": gpu.total_memory,
        "compute_capability": f"{gpu.major}.{gpu.minor}",
        "driver": _output("nvidia-smi", *query),
        "cuda": torch.version.cuda,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
    }


def _cpu() -> str:
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _output(*command: str) -> str | None:
    """Return what a program prints; None if it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def gpu_table(content: Mapping[str, Any]) -> Table:
    """Return measured times beside the predictions, and what each step says about itself."""
    view = Table(
        box=rich.box.SIMPLE_HEAD,
        title=f"{content['hardware']['gpu']}, size {content['size']}",
        title_justify="left",
        title_style="bold",
        caption="Predicted: lower bound for an H200 (reports/published/performance.md).",
        caption_justify="left",
    )
    view.add_column("")
    for name in ("ms", "predicted ms", "ratio"):
        view.add_column(name, justify="right")
    predictions = read_predictions() if content["size"] == "full" else {}
    for step, entry in content["steps"].items():
        view.add_section()
        failed = "" if "result" in entry else f": {entry['error'].strip().splitlines()[-1]}"
        view.add_row(f"[bold]{step}[/]{escape(failed)}")
        for figure, seconds in entry.get("result", {}).get("figures", {}).items():
            bound = predictions.get(figure)
            known = ("", "") if bound is None else (f"{1e3 * bound:.2f}", f"{seconds / bound:.1f}")
            view.add_row(figure, f"{1e3 * seconds:.2f}", *known)
    return view
