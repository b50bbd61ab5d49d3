"""What the C library does with memory that a program frees."""

import ctypes
import sys

# From malloc.h of glibc: mallopt's parameters.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**25  # that it takes for the second one


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for this process instead of giving it back to the kernel.

    Each step of a training and each image of an analysis frees and asks for the same sizes anew;
    pages that went back meanwhile are zeroed and mapped again, which takes longer than many an
    operator. The process stays as large as it once was. For programs, not for libraries: it's
    a setting of the whole process.

    Returns:
        Whether it was done: False where the C library isn't glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
