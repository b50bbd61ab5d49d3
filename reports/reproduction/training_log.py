"""What a training directory says of its steps: how many, how fast (metrics.json)."""

import json
import statistics
from pathlib import Path


def logged_steps(directory: Path) -> int:
    """Steps that a training has logged."""
    return max((int(line["iteration"]) + 1 for line in _lines(directory)), default=0)


def seconds_per_step(directory: Path) -> float | None:
    """Median seconds of a step; None where none is logged."""
    values = [line["time"] for line in _lines(directory)]
    return statistics.median(values) if values else None


def training_seconds(directory: Path) -> float | None:
    """Seconds of all steps together, without evaluations and pauses; None where none is logged."""
    lines = _lines(directory)
    before = [0, *(int(line["iteration"]) + 1 for line in lines)]
    total = sum(
        line["time"] * (line["iteration"] + 1 - start)
        for line, start in zip(lines, before, strict=False)
    )
    return total if lines else None


def _lines(directory: Path) -> list[dict[str, float]]:
    """Logged steps; each has the seconds of a step since the one before."""
    try:
        text = (directory / "metrics.json").read_text(encoding="utf-8")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            break  # torn by a crash; nothing after it counts
        if "time" in values:
            lines.append(values)
    return lines
