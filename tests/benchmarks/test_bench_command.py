"""`mpdiag bench` on the command line."""

import sys
from pathlib import Path

import pytest

from mpdiag.cli import main
from mpdiag.commands import bench


def test_installed_package_has_no_benchmarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "CHECKOUT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["mpdiag", "bench", "ops"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert "run it from a source checkout" in " ".join(capsys.readouterr().err.split())


def test_results_are_written_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.timing.COPY_SIZE", 2**16)
    path = tmp_path / "ops.json"
    options = ["--size", "32x32", "--repeats", "1", "--device", "cpu", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["mpdiag", "bench", "ops", *options])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert not exit_.value.code and '"timings"' in path.read_text()
    printed = capsys.readouterr()
    assert "plain" in printed.out
    assert printed.err.splitlines()[-1] == "Next: mpdiag bench analyze"
