"""The examples run and print the expected output."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_own_model(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "own_model.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "Recording of my segmenter" in printed
    assert "class_logits: 4 layers of (2, 6, 5)" in printed
    assert "mask_logits: 4 layers of (2, 6, 16, 16)" in printed
    assert "mIoU-L: [" in printed
