"""Two gloo processes share the images of a diagnosis and conclude the same as one process."""

import json
from pathlib import Path

import pytest

from mpdiag.config import ModelConfig
from mpdiag.data import generate_synthetic
from mpdiag.diagnosis import collect

from ...processes import start_ranks
from .sharded_diagnosis import diagnose


@pytest.mark.slow
def test_two_processes_make_the_diagnosis_of_one(
    small_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_synthetic(tmp_path / "synthetic", train=1, val=6, size=64)
    config = small_config.model_copy(update={"num_classes": 7})
    ranks = start_ranks(tmp_path / "streams", 2, diagnose, config, tmp_path, tmp_path / "shared")
    monkeypatch.setattr(collect, "IMAGES_PER_BLOCK", 2)  # `diagnose` sets it
    diagnose(config, tmp_path, tmp_path / "alone")
    assert [rank.wait(120) for rank in ranks] == [0, 0], ranks[0].err + ranks[1].err
    alone, first, second = (
        json.loads((tmp_path / name).read_text()) for name in ("alone-0", "shared-0", "shared-1")
    )
    assert first["diagnosis"] == second["diagnosis"] == alone["diagnosis"]
    assert first["images"] + second["images"] == alone["images"]
    assert first["images"] == 2 * second["images"]  # blocks 0 and 2, and block 1
