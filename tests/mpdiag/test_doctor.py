"""What `mpdiag doctor` says."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mpdiag.doctor import doctor


def said() -> str:
    console = Console(width=100, file=StringIO())
    for table in doctor():
        console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    return text


def rows(text: str) -> dict[str, str]:
    """The last line of each first word."""
    return {line.split()[0]: line for line in text.splitlines() if line.split()}


def test_what_runs_and_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MPDIAG_DEFORM_ATTN", raising=False)
    (tmp_path / "cityscapes" / "gtFine").mkdir(parents=True)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    found = rows(said())
    assert "runs" in found["cpp"] and "first choice" in found["cpp"]
    assert "could" in found["plain"]
    assert "it runs on cuda only" in found["triton"]
    assert found["coco"].split()[1:] == ["-"]
    assert found["cityscapes"].split()[1] != "-"


def test_what_was_asked_for_and_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPDIAG_DEFORM_ATTN", "original")
    text = said()
    assert "none runs" in text and "it runs on cuda only" in text
