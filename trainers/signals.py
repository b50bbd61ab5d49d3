"""SIGTERM, SIGHUP and Ctrl-C: finish the current step and save it before the process ends.

torchrun forwards SIGTERM to its processes, which SLURM and systemd may have signalled already. So
only Ctrl-C ends a process at once when it is repeated.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


def _stop_signals() -> list[signal.Signals]:
    """Return the signals that stop a run: SIGHUP, of a closed terminal, unless nohup ignores it."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        numbers.append(hangup)
    return numbers


class StoppedBySignalError(Exception):
    """A signal stopped the training after it saved its state."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + number


class StopSignal:
    """Context manager that records the first stop signal; Ctrl-C then ends the process at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        if (
            threading.current_thread() is threading.main_thread()
        ):  # Python handles signals there only
            self._previous = {
                number: signal.signal(number, self._record) for number in _stop_signals()
            }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            signal.signal(signal.SIGINT, signal.SIG_DFL)
