"""`mpdiag doctor`: report installed packages, available backends and data sets."""

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
from mpdiag.data.registry import default_root, find_datasets
from mpdiag.errors import DependencyError
from mpdiag.ops.backends import BACKENDS, VARIABLE, resolve_backend, unavailable_reason
from mpdiag.ops.compiled_library import cache_directory, find_compiler, untrusted_reason

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "pandas", "duckdb", "pycocotools")
OPTIONAL = {
    "tensorboard": "mpdiag train (extra: train)",
    "streamlit": "mpdiag dashboard (extra: dashboard)",
    "transformers": "models and checkpoints of transformers (extra: transformers)",
    "accelerate": "Trainer of transformers (extra: transformers)",
    "lightning": "callback for Lightning (extra: lightning)",
    "supervision": "Detections from a recording (extra: export)",
    "triton": "CUDA kernels and torch.compile",
    "deformops": "fastest deformable attention on CUDA (Python 3.12 and 3.13)",
    "torch-ms-deform-attn": "alternative deformable attention backend",
    "kernels": "deformable attention backend of transformers",
    "detectron2": "detectron2 trainer, data sets and models (docs/detectron2.md)",
    "wandb": "Weights & Biases logging",
}


def doctor() -> Iterator[RenderableType]:
    """Yield one table per topic for the terminal."""
    yield _table("mpdiag", _machine())
    yield _table("Packages", [(name, _version(name) or "[red]missing[/]") for name in PACKAGES])
    optional = [(name, _version(name) or "-", escape(use)) for name, use in OPTIONAL.items()]
    yield _table("Optional packages", optional)
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        yield _table(f"Deformable attention on {device}", _backends(device))
    yield _table("Data sets", _datasets())


def _machine() -> list[tuple[str, str]]:
    rows = [
        ("version", __version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("cpu", f"{_count_threads()}, {torch.backends.cpu.get_cpu_capability()}"),
    ]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        rows.append((f"cuda:{index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"))
    if not torch.cuda.is_available():
        rows.append(("cuda", "not available to PyTorch"))
    rows.append(("c++ compiler", escape(_compiler())))
    untrusted = untrusted_reason(cache_directory())
    cache = f"[yellow]{escape(untrusted)}[/]" if untrusted else escape(str(cache_directory()))
    rows.append(("kernel cache", cache))
    return rows


def _count_threads() -> str:
    count = torch.get_num_threads()
    return f"{count} {'thread' if count == 1 else 'threads'}"


def _compiler() -> str:
    path = find_compiler()
    if path is None:
        return "not found"
    result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return f"{path}: {result.stdout.partition(chr(10))[0]}"


def _backends(device: str) -> list[tuple[str, str, str]]:
    """Return one row per backend: name, status for float32, and the reason."""
    rows = []
    try:
        chosen, why, _ = resolve_backend(device, torch.float32, os.environ.get(VARIABLE) or None)
    except DependencyError as error:
        chosen, why = "", ""
        rows.append(("", "[red]no backend[/]", escape(str(error))))
    for backend in BACKENDS:
        reason = unavailable_reason(backend, device, torch.float32)
        if backend.name == chosen:
            rows.append(
                (backend.name, "[green]selected[/]", f"{backend.description}; {escape(why)}")
            )
        elif reason:
            rows.append((backend.name, "[dim]unavailable[/]", escape(reason)))
        else:
            rows.append(
                (backend.name, "available", f"{backend.description}; {VARIABLE}={backend.name}")
            )
    return rows


def _datasets() -> list[tuple[str, str]]:
    root = default_root()
    variable = "" if os.environ.get("DETECTRON2_DATASETS") else " ($DETECTRON2_DATASETS is not set)"
    rows = [
        (name, escape(str(path)) if path else "[dim]not found[/]")
        for name, path in find_datasets(root).items()
    ]
    return [("root", f"{escape(str(root))}{variable}"), *rows]


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
