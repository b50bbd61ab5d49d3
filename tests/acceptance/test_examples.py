"""The examples run, and do what they say."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_model_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "own_model.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "my segmenter; class_logits: 4 x (2, 6, 5); mask_logits: 4 x (2, 6, 16, 16)" in said
    assert "mIoU-L: [" in said
