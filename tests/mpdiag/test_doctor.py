"""`mpdiag doctor`: status of backends and data sets."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mpdiag.doctor import doctor


def output() -> str:
    console = Console(width=100, file=StringIO())
    for table in doctor():
        console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    return text


def rows(text: str) -> dict[str, str]:
    """Map the first word of each line to the last line that starts with it."""
    return {line.split()[0]: line for line in text.splitlines() if line.split()}


def test_status_of_backends_and_data_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MPDIAG_DEFORM_ATTN", raising=False)
    (tmp_path / "cityscapes" / "gtFine").mkdir(parents=True)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    found = rows(output())
    assert "selected" in found["cpp"] and "the default on" in found["cpp"]
    assert "available" in found["plain"]
    assert "it requires cuda" in found["triton"]
    assert found["coco"].split()[1:] == ["not", "found"]
    assert found["cityscapes"].split()[1] != "not"


def test_requested_backend_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPDIAG_DEFORM_ATTN", "original")
    text = output()
    assert "no backend" in text and "it requires cuda" in text
