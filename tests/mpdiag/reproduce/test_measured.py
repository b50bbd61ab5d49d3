"""Damaged and foreign files of DIR/measured/ are measured again."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpdiag.reproduce import ReproductionOptions, reporting, resampling, select_size
from mpdiag.reproduce.directory import Job
from mpdiag.reproduce.measurements import NOISES

COST = {"parameters": 10, "multiply_adds": 20, "frames_per_second": 2.5,
        "height": 64, "width": 96, "device": "the CPU"}  # fmt: skip
ROW = {"masks": 1, "mean": 0.5, "least": 0.5, "low": 0.5, "median": 0.5, "high": 0.5,
       "histogram": [0, 1]}  # fmt: skip
ROWS = [
    {"noise": noise, "ratio": ratio, "stride": stride, **ROW}
    for noise, ratio, stride in product(NOISES, (0.1, 0.2), (4, 8, 16, 32))
]
EXAMPLE = {"noise": "point", "iou": 0.5, "clean": ["01"], "noised": ["11"]}
NOISE = {"dataset": "synthetic", "images": 1, "rows": ROWS, "examples": [EXAMPLE]}
SAMPLES = {"ap": [0.5, None]}
Measure = dict[str, Callable[[], Any]]


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Return what measures the content of each file; all jobs are finished."""
    monkeypatch.setattr(Job, "finished", True)
    monkeypatch.setattr(reporting, "load_held_out", lambda data: [])
    monkeypatch.setattr(resampling, "load_held_out", lambda data: [])
    monkeypatch.setattr(reporting.Run, "open", lambda path: FakeRun())
    monkeypatch.setattr(reporting, "model_costs", lambda paths, *_: dict.fromkeys(paths, COST))
    monkeypatch.setattr(reporting, "noise_overlap", lambda *_: NOISE)
    monkeypatch.setattr(resampling, "_resample", lambda *_: SAMPLES)
    options = ReproductionOptions(["figure1"], select_size("tiny"), [0], tmp_path)
    trainings, directory = options.trainings(), options.directory
    return {
        "costs.json": lambda: reporting.measure_costs(trainings, directory),
        "noise.json": lambda: reporting.measure_noise(trainings[0], directory),
        "resampled/baseline-seed-0-matching.json": lambda: resampling.resample_runs(
            trainings, directory
        )["baseline", 0, "matching"],
    }


class FakeRun:
    """A run whose first image has 64 x 96 pixels."""

    def query(self, text: str) -> Any:
        return self

    @property
    def iloc(self) -> Any:
        return np.array([[64, 96]])


@pytest.mark.parametrize(
    ("name", "expected", "broken"),
    [
        ("costs.json", {"baseline": COST}, {"baseline": 5}),
        ("costs.json", {"baseline": COST}, {"baseline": {**COST, "frames_per_second": None}}),
        ("noise.json", NOISE, {"images": 1}),
        ("noise.json", NOISE, {**NOISE, "rows": ROWS[1:]}),
        ("noise.json", NOISE, {**NOISE, "rows": [*ROWS[1:], {**ROWS[0], "mean": float("nan")}]}),
        ("noise.json", NOISE, {**NOISE, "examples": [[]]}),
    ],
)
def test_a_broken_file_is_measured_again(
    tmp_path: Path, measure: Measure, name: str, expected: Any, broken: Any
) -> None:
    file = tmp_path / "measured" / name
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(broken))
    assert measure[name]() == expected
    assert json.loads(file.read_text()) == expected


@pytest.mark.parametrize("values", [5, {"ap": 0.5}, {"ap": ["high"]}, {"ap": [float("nan")]}])
def test_broken_samples_are_drawn_again(tmp_path: Path, measure: Measure, values: Any) -> None:
    name = "resampled/baseline-seed-0-matching.json"
    assert measure[name]() == SAMPLES
    file = tmp_path / "measured" / name
    file.write_text(json.dumps(json.loads(file.read_text()) | {"values": values}))
    assert measure[name]() == SAMPLES


def test_a_good_file_is_kept(tmp_path: Path, measure: Measure) -> None:
    kept = {
        "costs.json": {"baseline": {**COST, "parameters": 11}, "unused": COST},
        "noise.json": {**NOISE, "images": 2, "examples": []},
    }
    (tmp_path / "measured").mkdir()
    for name, content in kept.items():
        (tmp_path / "measured" / name).write_text(json.dumps(content))
        assert measure[name]() == content
