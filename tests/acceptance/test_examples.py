"""The examples run, and do what they say."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_model_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "own_model.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "Recording of my segmenter" in said
    assert "class_logits: 4 layers of (2, 6, 5)" in said
    assert "mask_logits: 4 layers of (2, 6, 16, 16)" in said
    assert "mIoU-L: [" in said
