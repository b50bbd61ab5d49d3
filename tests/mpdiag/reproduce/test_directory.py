"""Whose directory it is, and what of it is finished."""

import json
from pathlib import Path

import pytest

from mpdiag.errors import RunError
from mpdiag.reproduce import ReproductionOptions, find_size
from mpdiag.reproduce.directory import ReproductionDirectory

CALL = {"command": "mpdiag reproduce", "started": "2026-01-01", "machine": "here"}


def request(path: Path, *changes: str) -> ReproductionOptions:
    return ReproductionOptions(["table1"], find_size("tiny", changes), [0], path / "out")


def test_a_piloted_training_has_two_analyses_and_each_a_directory(tmp_path: Path) -> None:
    layout = ReproductionDirectory(tmp_path)
    baseline, piloted, _ = request(tmp_path).trainings()
    assert [step.name for step in layout.steps(baseline)] == [
        "baseline-seed-0", "baseline-seed-0-matching",
    ]  # fmt: skip
    train, matching, part = layout.steps(piloted)
    assert train.words[:2] == ("train", "synthetic-tiny") and "--resume" in train.words
    assert "pilot.layers=1" in train.words
    assert matching.output == tmp_path / "runs" / "mp-first-layer-seed-0-matching"
    assert part.words[part.words.index("--part") + 1] == "piloted"


def test_what_is_finished(tmp_path: Path) -> None:
    train, analyse = ReproductionDirectory(tmp_path).steps(request(tmp_path).trainings()[0])
    assert not train.finished and not analyse.finished
    train.output.mkdir(parents=True)
    (train.output / "model_final.pth").touch()
    analyse.output.mkdir(parents=True)
    (analyse.output / "run.json").write_text('{"finished": false}')
    assert train.finished and not analyse.finished
    (analyse.output / "run.json").write_text('{"finished": true}')
    (analyse.output / "summary.json").write_text("{}")
    assert analyse.finished


def test_a_directory_remembers_its_trainings_and_every_call(tmp_path: Path) -> None:
    first, more = (
        request(tmp_path),
        ReproductionOptions(["table7"], find_size("tiny"), [0], tmp_path / "out"),
    )
    for one in (first, more, first):
        one.layout.register("tiny", one.trainings(), CALL)
    held = json.loads((tmp_path / "out" / "reproduce.json").read_text())
    assert set(held["trainings"]) == {
        f"{name}-seed-0"
        for name in ("baseline", "mp-first-layer", "mp-all-layers", "fixed-matching",
                     "auxiliary-loss")
    }  # fmt: skip
    assert len(held["calls"]) == 3


def test_what_a_directory_must_not_be(tmp_path: Path) -> None:
    one = request(tmp_path)
    one.layout.register("tiny", one.trainings(), CALL)
    with pytest.raises(RunError, match="size tiny"):
        one.layout.register("small", one.trainings(), CALL)
    other = request(tmp_path, "data.batch_size=8", "log_every=1")
    with pytest.raises(RunError, match=r"baseline-seed-0 with other settings \(data.batch_size\)"):
        other.layout.register("tiny", other.trainings(), CALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(RunError, match="other files"):
        ReproductionDirectory(tmp_path / "mine").register("tiny", one.trainings(), CALL)
    with pytest.raises(RunError, match="is a file"):
        ReproductionDirectory(tmp_path / "mine" / "thesis.tex").register(
            "tiny", one.trainings(), CALL
        )
