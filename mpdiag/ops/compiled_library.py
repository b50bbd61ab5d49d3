"""C++ files compiled when they are first needed, and kept for the next time."""

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mpdiag.errors import DependencyError

log = logging.getLogger(__name__)

COMPILERS = ("g++", "c++", "clang++")
PATIENCE = 300  # seconds


def load_library(source: Path) -> ctypes.CDLL:
    """The C++ file as a shared library, compiled now if it wasn't before.

    It's kept in the user's cache directory, by the hash of the file and of the compiler's flags,
    and is never loaded from a place where another user could have put it.

    Raises:
        DependencyError: there is no compiler, or it fails.
    """
    if sys.platform != "linux":
        raise DependencyError("it is compiled on Linux only")
    flags = compiler_flags()
    recipe = source.read_bytes() + " ".join((*flags, platform.machine())).encode()
    name = f"{source.stem}-{hashlib.sha256(recipe).hexdigest()[:16]}.so"
    directory = cache_directory()
    obstacle = distrust(directory)
    if obstacle:
        log.info("%s: %s, so it is compiled anew each time", source.name, obstacle)
        with tempfile.TemporaryDirectory(prefix="mpdiag-") as temporary:
            return _load(source, Path(temporary) / name, flags)
    with _locked(directory / "lock"):
        return _load(source, directory / name, flags)


def compiler() -> str | None:
    """Path of the C++ compiler: $CXX, or the first of the usual ones."""
    names = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    return next((path for name in names if (path := shutil.which(name))), None)


def compiler_flags() -> list[str]:
    """What the compiler is told; vectors of the width that torch itself uses on this processor.

    Nobody asks for floating-point exceptions or errno; if they were kept, loops that choose
    between two values would not become vectors.
    """
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    vectors = ["-mavx2", "-mfma"] if wide else []
    unused = ["-fno-math-errno", "-fno-trapping-math"]
    return ["-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", *unused, *vectors]


def cache_directory() -> Path:
    """Where compiled libraries are kept: below $XDG_CACHE_HOME, by default ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mpdiag" / "kernels"


def distrust(directory: Path) -> str | None:
    """Why libraries in a directory, made if need be, could come from someone else; else None."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        resolved = directory.resolve(strict=True)
        if not os.access(resolved, os.W_OK):
            return f"{directory} can't be written"
        for place in (resolved, *resolved.parents):
            state = place.stat()
            if state.st_uid not in (os.geteuid(), 0):
                return f"{place} belongs to another user"
            shared = state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if place == resolved and (shared or state.st_uid != os.geteuid()):
                return f"{place} is open to other users"
            if state.st_mode & stat.S_IWOTH and not state.st_mode & stat.S_ISVTX:
                return f"{place} can be written by anyone"
    except OSError as error:
        return f"{directory} can't be used ({error.strerror})"
    return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, so that of several processes one compiles and the others wait."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _load(source: Path, path: Path, flags: list[str]) -> ctypes.CDLL:
    if not path.exists():
        _compile(source, path, flags)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise DependencyError(f"{path} can't be loaded: {error}") from error


def _compile(source: Path, path: Path, flags: list[str]) -> None:
    program = compiler()
    if program is None:
        wanted = os.environ.get("CXX") or ", ".join(COMPILERS)
        raise DependencyError(f"there is no C++ compiler ({wanted})")
    started = time.perf_counter()
    unfinished = path.with_suffix(".unfinished")
    command = [program, *flags, str(source), "-o", str(unfinished)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line]
        raise DependencyError(f"{program} failed: {' '.join(lines[:1])}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DependencyError(f"{program} failed: {error}") from error
    unfinished.chmod(0o700)
    unfinished.replace(path)
    log.info("compiled %s once, in %.1f s", source.name, time.perf_counter() - started)
