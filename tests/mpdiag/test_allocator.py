"""Resident memory after freeing, and the setting of PyTorch's allocator for CUDA."""

import os
import platform
import subprocess
import sys

import pytest

from mpdiag.allocator import keep_freed_memory, use_expandable_segments

PROGRAM = """
import re
from mpdiag.allocator import keep_freed_memory

def resident():  # MiB
    return int(re.search(r"VmRSS:\\s*(\\d+)", open("/proc/self/status").read()).group(1)) / 1024

if {keep}:
    assert keep_freed_memory()
before = resident()
blocks = [bytearray(b"x") * 2**20 for _ in range(100)]
full = resident()
del blocks
print(full - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_is_kept(keep: bool) -> None:
    program = PROGRAM.format(keep=keep)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    used, remaining = map(float, done.stdout.split())
    assert used > 95
    assert remaining > 90 if keep else remaining < 10


def test_no_effect_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, "backend:native"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, None),
    ],
)
def test_expandable_segments_unless_configured(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(name, given.get(name, ""))
    use_expandable_segments()
    assert (os.environ["PYTORCH_ALLOC_CONF"] or None) == expected
