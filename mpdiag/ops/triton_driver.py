"""Whether Triton can run kernels here: its driver compiles C code when it is first used."""

import subprocess

from mpdiag.errors import DependencyError


def require_triton_driver() -> None:
    """Set up Triton's driver.

    Raises:
        DependencyError: it finds no C compiler, no headers of Python, or no CUDA driver.
        ModuleNotFoundError: Triton is not installed.
    """
    import triton

    try:
        triton.runtime.driver.active.get_current_target()
    except (RuntimeError, OSError, AssertionError, subprocess.SubprocessError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DependencyError(f"Triton cannot set up its driver ({reason})") from error
