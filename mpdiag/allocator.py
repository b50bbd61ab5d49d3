"""Settings of the C library's memory allocator."""

import ctypes
import sys

# Parameters of mallopt, from malloc.h of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**25  # maximum of the second one


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory in this process instead of returning it to the kernel.

    Training steps and analyzed images allocate the same sizes again and again. Mapping and zeroing
    returned pages takes longer than many operators. The process keeps its peak size. This is a
    setting of the whole process, so call it from programs, not from libraries.

    Returns:
        Whether it was set; False if the C library is not glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
