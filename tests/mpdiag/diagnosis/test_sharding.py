"""Two gloo processes share the images of a diagnosis and conclude the same as one process."""

import json
from pathlib import Path

import pytest

from mpdiag.config import ModelConfig
from mpdiag.data import generate_synthetic

from ...processes import start_ranks
from .sharded_diagnosis import diagnose


@pytest.mark.slow
def test_two_processes_make_the_diagnosis_of_one(small_config: ModelConfig, tmp_path: Path) -> None:
    generate_synthetic(tmp_path / "synthetic", train=1, val=4, size=64)
    config = small_config.model_copy(update={"num_classes": 7, "decoder_layers": 2})
    ranks = [
        rank
        for name, count in (("alone", 1), ("shared", 2))
        for rank in start_ranks(
            tmp_path / "streams" / name, count, diagnose, config, tmp_path, tmp_path / name
        )
    ]
    assert [rank.wait(120) for rank in ranks] == [0, 0, 0], [rank.err for rank in ranks]
    alone, first, second = (
        json.loads((tmp_path / name).read_text()) for name in ("alone-0", "shared-0", "shared-1")
    )
    assert first["diagnosis"] == second["diagnosis"] == alone["diagnosis"]
    assert first["images"] + second["images"] == alone["images"]
    assert first["images"] == second["images"] > 0  # a block of two images each
