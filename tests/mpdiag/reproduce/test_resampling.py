"""Intervals over images of trainings on several data sets."""

from pathlib import Path
from typing import Any

import pytest

from mpdiag.config import DataConfig
from mpdiag.reproduce import ReproductionOptions, resampling, select_size
from mpdiag.reproduce.directory import Job


def test_each_run_is_resampled_on_its_own_data_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []
    used: dict[str, str] = {}

    def load(data: DataConfig) -> str:
        opened.append(data.dataset)
        return data.dataset

    def resample(run: Path, data: Any) -> dict[str, list[float]]:
        used[run.name] = data
        return {"ap": [0.5]}

    monkeypatch.setattr(Job, "finished", True)
    monkeypatch.setattr(resampling, "load_held_out", load)
    monkeypatch.setattr(resampling, "_resample", resample)
    options = ReproductionOptions(["table3"], select_size("paper"), [0], tmp_path)
    resampling.resample_runs(options.trainings(), options.directory)
    assert sorted(opened) == ["ade20k", "coco"]  # each once
    matching = {name: data for name, data in used.items() if name.endswith("matching")}
    assert len(matching) == 4
    assert all(data == name.partition("-")[0] for name, data in matching.items())
