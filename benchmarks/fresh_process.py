"""Run a function in a process of its own, with a limit of time."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")

MAX_CHARACTERS = 4000  # of a traceback, from its end


class ProcessFailedError(Exception):
    """The function raised an error, ended its process, or did not end in time."""


def run_in_fresh_process(function: Callable[[], T], seconds: float) -> T:
    """Call a picklable function in a new process and return its picklable result.

    After `seconds` the process is killed. Processes that it started are killed in any case.

    Raises:
        ProcessFailedError: with the reason.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, function))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise ProcessFailedError(f"did not end within {seconds:.0f} seconds")
        result, error = receiver.recv()
    except EOFError:
        process.join()
        raise ProcessFailedError(f"its process ended with status {process.exitcode}") from None
    finally:
        assert process.pid is not None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    if error is not None:
        raise ProcessFailedError(error)
    found: T = result
    return found


def call(function: Callable[[], T]) -> T:
    """Call a function in this process.

    Raises:
        ProcessFailedError: with the traceback of an error.
    """
    try:
        return function()
    except Exception:
        raise ProcessFailedError(traceback.format_exc()[-MAX_CHARACTERS:]) from None


def _send_result(sender: Connection, function: Callable[[], Any]) -> None:
    os.setsid()  # so that the parent can kill also the processes of this one
    try:
        sender.send((call(function), None))
    except ProcessFailedError as error:
        sender.send((None, str(error)))
