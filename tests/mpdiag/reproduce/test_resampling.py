"""Metrics of resampled images: of trainings on several data sets, and kept between calls."""

import json
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


def test_values_of_another_run_with_the_same_name_are_computed_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ReproductionOptions(["figure1"], select_size("tiny"), [0], tmp_path)
    run = tmp_path / "runs" / "baseline-seed-0-matching"
    run.mkdir(parents=True)
    (run / "summary.json").write_text("{}")
    computed: list[list[float]] = []

    def resample(path: Path, data: Any) -> dict[str, list[float]]:
        computed.append([len(computed) / 10])
        return {"ap": computed[-1]}

    monkeypatch.setattr(resampling, "load_held_out", lambda data: None)
    monkeypatch.setattr(resampling, "_resample", resample)

    def values(created: str, sha256: str) -> list[float | None]:
        header = {"finished": True, "created": created, "checkpoint": {"sha256": sha256}}
        (run / "run.json").write_text(json.dumps(header))
        found = resampling.resample_runs(options.trainings(), options.directory)
        return list(found["baseline", 0, "matching"]["ap"])

    assert [values("Monday", "a"), values("Monday", "a")] == [[0.0], [0.0]]
    assert [values("Tuesday", "a"), values("Tuesday", "b")] == [[0.1], [0.2]]
    monkeypatch.setattr(resampling, "RESAMPLED_METRICS", resampling.RESAMPLED_METRICS[:1])
    assert [values("Tuesday", "b"), values("Tuesday", "b")] == [[0.3], [0.3]]
    kept = tmp_path / "measured" / "resampled" / "baseline-seed-0-matching.json"
    for content in ({"ap": [0.9]}, {"values": {"ap": [0.9]}}):  # without an origin
        kept.write_text(json.dumps(content))
        assert values("Tuesday", "b") != [0.9]
