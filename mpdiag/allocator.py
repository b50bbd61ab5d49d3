"""Settings of the memory allocators of the C library and of CUDA."""

import ctypes
import os
import sys

# Parameters of mallopt, from malloc.h of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**25  # maximum of the second one
_CUDA_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the second is the older name


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


def use_expandable_segments() -> None:
    """Let PyTorch grow its blocks of GPU memory, unless the user configured its allocator.

    Sizes of images vary from step to step. Blocks of fixed sizes would fragment the memory. PyTorch
    reads the setting when it first uses the GPU.
    """
    if not any(os.environ.get(name) for name in _CUDA_VARIABLES):
        os.environ[_CUDA_VARIABLES[0]] = "expandable_segments:True"
