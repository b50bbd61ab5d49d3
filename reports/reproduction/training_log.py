"""Number and duration of a training's steps, from its metrics.json."""

import os
import statistics
from pathlib import Path

from mpdiag.untrusted import open_regular, parse_json

_TAIL = 1 << 16  # bytes at the end of a log, which has a line of 1 to 5 kB per logged step


def logged_steps(directory: Path) -> int:
    """Return the number of steps that the training has logged, from the end of its log."""
    lines = _lines(directory, _TAIL) or _lines(directory)
    return max((int(line["iteration"]) + 1 for line in lines), default=0)


def seconds_per_step(directory: Path) -> float | None:
    """Return the median seconds of a step; None if no step is logged."""
    values = [line["time"] for line in _lines(directory)]
    return statistics.median(values) if values else None


def training_seconds(directory: Path) -> float | None:
    """Return the seconds of all steps, without evaluations and pauses; None if none is logged."""
    lines = _lines(directory)
    before = [0, *(int(line["iteration"]) + 1 for line in lines)]
    total = sum(
        line["time"] * (line["iteration"] + 1 - start)
        for line, start in zip(lines, before, strict=False)
    )
    return total if lines else None


def _lines(directory: Path, tail: int | None = None) -> list[dict[str, float]]:
    """Return the logged steps; `time` is the seconds of a step since the line before.

    Args:
        directory: training directory.
        tail: number of bytes to read at the end of the log; all if None.
    """
    try:
        with open_regular(directory / "metrics.json") as file:
            start = 0 if tail is None else max(file.seek(0, os.SEEK_END) - tail, 0)
            file.seek(start)
            if start:
                file.readline()  # the end of a line
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            values = parse_json(line)
            if "time" in values:
                step = {"iteration": int(values["iteration"]), "time": float(values["time"])}
                lines.append(step)
        except (ValueError, TypeError, KeyError, OverflowError):
            break  # a crash cut this line off
    return lines
