"""Hostile arguments, names and environments of the command line: one line and exit code 2."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table

from mpdiag.cli import main
from mpdiag.commands.options import SafeConsole
from mpdiag.config import parse_overrides, read_yaml
from mpdiag.data.problems import DataProblem
from mpdiag.errors import ConfigError, MpdiagError
from mpdiag.reproduce.experiments import SIZES
from mpdiag.reproduce.scheduler import plan_machine

HOSTILE = "\x1b[2J\x9b1m\x07\u202e\u2066[bold red]\\"
LONG_NUMBER = "1" * 5000
Command = Callable[..., str]


@pytest.fixture
def error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs a command and returns its one-line error."""

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["mpdiag", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        assert stop.value.code == 2 and not out
        assert err.endswith("\n") and err[:-1].isprintable() and len(err) < 1100
        assert err.startswith("error: ")
        return err

    return run


@pytest.mark.parametrize(
    "words",
    [
        ["info", "x.pth", "--size", "100000x100000"],
        ["info", "x.pth", "--size", f"{LONG_NUMBER}x1"],
        ["info", "x.pth", "--size", "0x5"],
        ["info", "x.pth", "--size", "\u0661x\u0662"],
        ["info", "x.pth", "--size", HOSTILE],
        ["data", "synth", "x", "--size", "100000"],
        ["data", "synth", "x", "--train", LONG_NUMBER[:4000]],
        ["data", "synth", "x", "--seed", LONG_NUMBER[:4000]],
        ["data", "synth", "x", "--seed", LONG_NUMBER],
        ["data", "synth", "x", "--seed", "-1"],
        ["data", "check", "x", "--limit", LONG_NUMBER],
        ["data", "check", "x", "--limit", "1" * 10**6 + "x"],
        ["report", "x", "--threshold", "kept_iou=0x_"],
        ["report", "x", "--threshold", f"kept_iou={LONG_NUMBER}"],
        ["train", "synthetic-tiny", "seed=0x_"],
        ["train", "synthetic-tiny", "schedule.iterations=2001-13-45"],
        ["train", "synthetic-tiny", "model=[[[["],
        ["train", "synthetic-tiny", f"model={'[' * 10_000}"],
        ["train", "synthetic-tiny", f"seed={LONG_NUMBER}"],
        ["train", "synthetic-tiny", "seed=!!int ''"],
        ["train", "synthetic-tiny", f"{'a.' * 5000}a=1"],
        ["train", "synthetic-tiny", f"{HOSTILE}=1"],
        ["train", f"{HOSTILE}.yaml"],
        ["convert", HOSTILE, "x", "--to", "detectron2"],
        ["info", "x" * 5000],
        [f"--{HOSTILE}"],
        [HOSTILE],
        ["info"],
    ],
    ids=lambda words: "-".join(words)[:30].encode("unicode_escape").decode(),
)
def test_slips_and_hostile_arguments(
    error: Command, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error(*words)
    assert not list(tmp_path.iterdir())


def test_messages_are_one_printable_line() -> None:
    long = ConfigError(f"start {HOSTILE}\n{'x' * 10**6} end")
    assert str(long).isprintable() and len(str(long)) == 1000
    assert str(long).startswith("start \\x1b[2J") and str(long).endswith("end")
    assert str(DataProblem("kind", HOSTILE)).isprintable()
    assert str(MpdiagError("größe 図")) == "größe 図"


def test_consoles_print_no_control_characters() -> None:
    console = SafeConsole(force_terminal=True, color_system="truecolor", width=60)
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    progress = Progress(console=console)
    progress.add_task(HOSTILE, total=3)
    with console.capture() as capture:
        console.print(table)
        console.print(HOSTILE, markup=False, soft_wrap=True)
        console.log(HOSTILE, markup=False)
        console.print(progress)
    text = capture.get()
    # The styles of rich are the only sequences.
    assert "\x1b[2J" not in text and not set("\x9b\x07\u202e\u2066") & set(text)
    assert "\\x1b[2J\\x9b1m" in text and "\\u202e\\u2066" in text


def test_output_that_the_terminal_cannot_encode(tmp_path: Path) -> None:
    script = "import sys; from mpdiag.cli import main; sys.argv[1:] = ['図']; main()"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 2 and b"No such command '\\u56f3'" in done.stderr


@pytest.mark.parametrize("name", ["trainers", "reports", "apps"])
def test_packages_of_another_project_are_detected(
    name: str, error: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    find = importlib.util.find_spec

    def find_foreign(wanted: str) -> ModuleSpec | None:
        if wanted != name:
            return find(wanted)
        return ModuleSpec(name, None, origin=str(tmp_path / name / "__init__.py"))

    monkeypatch.setattr(importlib.util, "find_spec", find_foreign)
    text = error("doctor")
    assert f"{tmp_path / name / '__init__.py'}: hides the package '{name}' of mpdiag" in text
    assert "torchrun --no-python mpdiag" in text


def test_platforms_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert "3 CPU cores" in plan_machine(SIZES["tiny"], None).description


@pytest.mark.parametrize("text", ["0x_", "2001-13-45", LONG_NUMBER, "[[[[", "!!bool x", "*a"])
def test_override_values(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_overrides([f"key={text}"])


def test_recipe_that_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.yaml")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_yaml(tmp_path / "recipe.yaml")
    with pytest.raises(ConfigError):
        read_yaml(tmp_path)
