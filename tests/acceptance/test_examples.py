"""The examples run and print the expected output."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from mpdiag.data import generate_synthetic
from mpdiag.recording import family
from mpdiag.recording.family import known_families

from ..mpdiag.integrations.piloted_steps import build_mask2former

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_own_model(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "_FAMILIES", known_families())  # the example adds one
    runpy.run_path(str(EXAMPLES / "own_model.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "Recording of my segmenter" in printed
    assert "class_logits: 4 layers of (2, 6, 5)" in printed
    assert "mask_logits: 4 layers of (2, 6, 16, 16)" in printed
    assert "mIoU-L: [" in printed


def test_finetune_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    generate_synthetic(tmp_path / "synthetic", train=4, val=2, size=64)
    build_mask2former().save_pretrained(tmp_path / "start")
    transformers.Mask2FormerImageProcessor(do_resize=False).save_pretrained(tmp_path / "start")
    arguments = {"--val": "synthetic/annotations/instances_val.json", "--model": "start"}
    arguments |= {"--steps": 2, "--batch-size": 2, "--crop": 64, "--every": 1, "--output": "out"}
    words = ["synthetic/annotations/instances_train.json"]
    for name, value in arguments.items():
        words += [name, str(value)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["finetune_transformers.py", *words])
    runpy.run_path(str(EXAMPLES / "finetune_transformers.py"), run_name="__main__")
    assert "'ap50': " in capsys.readouterr().out
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert sum("util/1" in entry for entry in history) == 2
    assert sum("loss" in entry for entry in history) == 2
    assert (tmp_path / "out" / "mask_piloting.safetensors").is_file()
    assert json.loads((tmp_path / "out" / "run" / "summary.json").read_text())["num_images"] == 2
