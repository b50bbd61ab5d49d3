"""`mpdiag doctor`: what is installed, which backend will run and why, which data sets are there."""

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch
from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from mpdiag import __version__
from mpdiag.data.registry import default_root, present_datasets
from mpdiag.errors import DependencyError
from mpdiag.ops.backends import BACKENDS, VARIABLE, decide, obstacle
from mpdiag.ops.compiled_library import cache_directory, compiler, distrust

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "pycocotools", "duckdb", "streamlit")
OPTIONAL = {
    "triton": "kernels on CUDA, torch.compile",
    "deformops": "the fastest deformable attention on CUDA (Python 3.12 and 3.13)",
    "torch-ms-deform-attn": "deformable attention, if asked for",
    "kernels": "transformers' deformable attention, if asked for",
    "transformers": "checkpoints written by transformers itself, parity tests",
    "detectron2": "its trainer, data sets and models (docs/detectron2.md)",
    "wandb": "Weights & Biases while training",
}


def doctor() -> Iterator[RenderableType]:
    """Tables for the terminal, one after the other."""
    yield _table("mpdiag", _machine())
    yield _table("Packages", [(name, _version(name) or "[red]missing[/]") for name in PACKAGES])
    optional = [(name, _version(name) or "-", escape(use)) for name, use in OPTIONAL.items()]
    yield _table("Optional packages", optional)
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        yield _table(f"Deformable attention on {device}", _backends(device))
    yield _table(f"Data sets in {escape(str(default_root()))}", _datasets())


def _machine() -> list[tuple[str, str]]:
    rows = [
        ("version", __version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("cpu", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"),
    ]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        rows.append((f"cuda:{index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"))
    if not torch.cuda.is_available():
        rows.append(("cuda", "none that PyTorch sees"))
    rows.append(("c++", escape(_compiler())))
    kept = escape(str(cache_directory()))
    obstacle_there = distrust(cache_directory())
    rows.append(("kernels in", f"[yellow]{escape(obstacle_there)}[/]" if obstacle_there else kept))
    return rows


def _compiler() -> str:
    path = compiler()
    if path is None:
        return "none"
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return f"{path}: {done.stdout.partition(chr(10))[0]}"


def _backends(device: str) -> list[tuple[str, str, str]]:
    """Every backend: whether it runs for float32, and why or why not."""
    rows = []
    try:
        chosen, why, _ = decide(device, torch.float32, os.environ.get(VARIABLE) or None)
    except DependencyError as error:
        chosen, why = "", ""
        rows.append(("", "[red]none runs[/]", escape(str(error))))
    for backend in BACKENDS:
        reason = obstacle(backend, device, torch.float32)
        if backend.name == chosen:
            rows.append((backend.name, "[green]runs[/]", f"{backend.job}; {escape(why)}"))
        elif reason:
            rows.append((backend.name, "[dim]can't[/]", escape(reason)))
        else:
            rows.append((backend.name, "could", f"{backend.job}; {VARIABLE}={backend.name}"))
    return rows


def _datasets() -> list[tuple[str, str]]:
    found = present_datasets(default_root())
    rows = [(name, escape(str(path)) if path else "-") for name, path in found.items()]
    variable = os.environ.get("DETECTRON2_DATASETS")
    return [("DETECTRON2_DATASETS", escape(variable) if variable else "not set"), *rows]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _table(title: str, rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(
        box=box.SIMPLE,
        title=title,
        title_justify="left",
        title_style="bold",
        show_header=False,
        pad_edge=False,
    )
    for row in rows:
        table.add_row(*row)
    return table
