"""Lock an output directory, so that only one process writes to it at a time."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpdiag.errors import RunError
from mpdiag.printable import printable
from mpdiag.untrusted import read_text

LOCK = ".lock"
_LOG = logging.getLogger(__name__)
_held: set[Path] = set()  # a process may take a POSIX lock again, so own locks are kept here


@contextmanager
def lock_directory(path: Path) -> Iterator[None]:
    """Create a directory and lock it; remove the lock file, and an empty new directory, on exit.

    The operating system releases the lock of a process that ends in any way, so the file that a
    killed process leaves does not block the next one. Child processes do not inherit the lock.
    Under torchrun, only the main process calls this function.

    Raises:
        RunError: `path` is a file, or another process has the lock.
    """
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise RunError(f"{path}: is a file; give a directory") from None
    file = path.resolve() / LOCK
    descriptor = _acquire(file)
    _held.add(file)
    try:
        yield
    finally:
        _held.remove(file)
        with suppress(OSError):
            file.unlink()
        os.close(descriptor)
        if is_new:
            with suppress(OSError):  # it has files
                path.rmdir()


def _acquire(file: Path) -> int:
    """Open and lock the file, write its owner to it, and return the descriptor."""
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    while file not in _held:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            owner = _owner(file)
            break
        except OSError as error:
            _LOG.warning("%s: is not locked, because the file system can't (%s)", file, error)
        # The last owner may have removed the file after it was opened here.
        if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
            with suppress(OSError):  # a full disk
                os.truncate(descriptor, 0)
                os.write(descriptor, owner.encode())
            return descriptor
        os.close(descriptor)
    raise RunError(
        f"{file.parent}: {owner} is writing to it; wait until it ends, or give another directory"
    )


def _owner(file: Path) -> str:
    """Return the process that has locked the file, as far as it has written that."""
    try:
        return printable(read_text(file, 1000), 200) or "another process"
    except (OSError, ValueError):
        return "another process"
