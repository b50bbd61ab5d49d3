"""Compile C++ files on first use and cache the shared libraries.

torch.utils.cpp_extension.load is no replacement. It compiles these files as fast (1.0 to 1.6 s each
against 1.0 to 1.2 s), but it needs ninja even for a cached library, does not rebuild a broken one,
and logs warnings about CUDA and the compiler's ABI, which these plain C functions do not depend on.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import torch

from mpdiag.errors import DependencyError

log = logging.getLogger(__name__)

COMPILERS = ("g++", "c++", "clang++")
TIMEOUT = 300  # seconds


def load_library(source: Path) -> ctypes.CDLL:
    """Return a C++ file as a shared library; compile it if the cache does not have it.

    The cache key is the hash of the source and of the compiler flags. Without a private cache
    directory the library is compiled into a temporary directory in each process.

    Raises:
        DependencyError: there is no compiler, or it fails.
    """
    if sys.platform != "linux":
        raise DependencyError("it is compiled on Linux only")
    flags = compiler_flags()
    key = hashlib.sha256(source.read_bytes() + " ".join((*flags, platform.machine())).encode())
    name = f"{source.stem}-{key.hexdigest()[:16]}.so"
    reason = untrusted_reason(cache_directory())
    if reason:
        log.info("%s: %s; compiled for this process only", source.name, reason)
        with tempfile.TemporaryDirectory(prefix="mpdiag-") as temporary:
            _compile(source, Path(temporary) / name, flags)
            return ctypes.CDLL(str(Path(temporary) / name))
    path = cache_directory() / name
    if path.exists():
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:
            log.warning("%s: cannot be loaded (%s); compiled again", path, error)
    _compile(source, path, flags)
    return ctypes.CDLL(str(path))


@cache
def library_or_none(source: Path, instead: str) -> ctypes.CDLL | None:
    """Return a C++ file as a shared library; if it cannot be compiled, log what is done instead."""
    try:
        return load_library(source)
    except DependencyError as error:
        log.warning("%s, which is slower: %s", instead, error)
        return None


def find_compiler() -> str | None:
    """Return the path of the C++ compiler: $CXX, or the first of the usual ones."""
    names = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    return next((path for name in names if (path := shutil.which(name))), None)


def compiler_flags() -> list[str]:
    """Return the compiler flags, with vector instructions if torch uses them on this processor.

    Nothing reads errno or floating-point exceptions; without these, loops with a choice between two
    values are vectorized.
    """
    avx = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    vectors = ["-mavx2", "-mfma"] if avx else []
    relaxed = ["-fno-math-errno", "-fno-trapping-math"]
    return ["-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", *relaxed, *vectors]


def cache_directory() -> Path:
    """Return the cache directory, below $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mpdiag" / "kernels"


def untrusted_reason(directory: Path) -> str | None:
    """Create a directory; return why libraries in it cannot be trusted or written, or None."""
    user = os.geteuid()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        resolved = directory.resolve(strict=True)
        for path in (resolved, *resolved.parents):
            owner, mode = path.stat().st_uid, path.stat().st_mode
            if path == resolved:
                unsafe = owner != user or mode & 0o022
            else:  # with the sticky bit, as /tmp, only owners can replace entries
                unsafe = owner not in (user, 0) or (mode & 0o002 and not mode & stat.S_ISVTX)
            if unsafe:
                return f"{path} is writable by other users"
    except OSError as error:
        return f"{directory} is not usable ({error.strerror})"
    return None if os.access(resolved, os.W_OK) else f"{directory} is not writable"


def _compile(source: Path, path: Path, flags: list[str]) -> None:
    """Compile a file; processes that do so at the same time replace equal libraries atomically."""
    compiler = find_compiler()
    if compiler is None:
        names = os.environ.get("CXX") or ", ".join(COMPILERS)
        raise DependencyError(f"there is no C++ compiler ({names})")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="compile-") as temporary:
        output = Path(temporary) / path.name
        command = [compiler, *flags, str(source), "-o", str(output)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
        except subprocess.CalledProcessError as error:
            lines = [line for line in error.stderr.splitlines() if "error" in line]
            raise DependencyError(f"{compiler} failed: {' '.join(lines[:1])}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DependencyError(f"{compiler} failed: {error}") from error
        output.replace(path)
    log.info("compiled %s in %.1f s", source.name, time.perf_counter() - started)
