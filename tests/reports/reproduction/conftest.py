"""Directories of trainings and runs like those of `mpdiag reproduce`, with random values."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reports.reproduction import TABLES, ReproductionContext, TrainedRun, table_rows

MakeRun = Callable[..., Path]
STEPS = 40


@pytest.fixture(scope="session")
def trained_below(make_run: MakeRun) -> Callable[..., list[TrainedRun]]:
    """Return a function that writes trainings and runs; `ap` returns the AP of a training.

    With the option `seed` of make_run, all runs have the same rows.
    """

    def build(
        root: Path,
        targets: Sequence[str],
        seeds: Sequence[int] = (0, 1),
        ap: Callable[[str, int], float] = lambda name, seed: 0.2 + len(name) / 1000 + seed / 100,
        **options: Any,
    ) -> list[TrainedRun]:
        names = dict.fromkeys(
            row.training for target in targets for row in table_rows(target, as_published=False)
        )
        return [
            _trained(root, make_run, name, seed, ap(name, seed), options)
            for seed in seeds
            for name in names
        ]

    return build


@pytest.fixture
def make_trained(
    tmp_path: Path, trained_below: Callable[..., list[TrainedRun]]
) -> Callable[..., list[TrainedRun]]:
    """Return the same function for the test's own path."""
    return partial(trained_below, tmp_path)


def _trained(
    root: Path, make_run: MakeRun, name: str, seed: int, ap: float, options: dict[str, Any]
) -> TrainedRun:
    key = f"{name}-seed-{seed}"
    directory = root / "trainings" / key
    directory.mkdir(parents=True)
    lines = [{"iteration": step - 1, "time": 0.5, "total_loss": 1.0} for step in (1, 20, STEPS)]
    (directory / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (directory / "model_final.pth").touch()
    parts = {}
    for part in ("matching", "piloted") if name.startswith("mp-") else ("matching",):
        number = 100 * seed + sum(map(ord, name + part))
        path = root / "runs" / f"{key}-{part}"
        own = {"seed": number, "part": part, "method": name}
        parts[part] = make_run(path, **own | options)
        summary = json.loads((path / "summary.json").read_text())
        scores = dict.fromkeys(("ap50", "ap75", "ap_small", "ap_medium", "ap_large"), ap)
        (path / "summary.json").write_text(json.dumps({"ap": {"ap": ap, **scores}, **summary}))
    return TrainedRun(name, seed, directory, parts, STEPS)


@pytest.fixture(scope="session")
def make_context() -> Callable[..., ReproductionContext]:
    """Return a function that builds a context with some values changed."""

    def build(targets: Sequence[str] = tuple(TABLES), **changes: Any) -> ReproductionContext:
        cost = {"parameters": 1_234_567, "multiply_adds": 226e9, "frames_per_second": 9.75,
                "height": 96, "width": 128, "device": "the CPU"}  # fmt: skip
        names = ("baseline", "fixed-matching", "auxiliary-loss")
        values: dict[str, Any] = {
            "targets": targets,
            "size": "tiny",
            "description": "a small model",
            "command": "mpdiag reproduce all --size tiny",
            "machines": ["2 CPU cores"],
            "costs": {name: cost for name in names},
            "noise": None,
            "explanations": {},
        }
        return ReproductionContext(**(values | changes))

    return build
