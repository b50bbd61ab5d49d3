"""Jobs of a reproduction, finished ones, and the manifest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mpdiag.errors import RunError
from mpdiag.reproduce import ReproductionOptions, select_size
from mpdiag.reproduce.directory import ReproductionDirectory
from trainers.output import check_output_dir, create_output_dir

CALL = {"command": "mpdiag reproduce", "started": "2026-01-01", "machine": "here"}


def make_options(path: Path, *changes: str) -> ReproductionOptions:
    return ReproductionOptions(["table1"], select_size("tiny", changes), [0], path / "out")


def test_a_training_with_an_mp_part_has_two_analysiss(tmp_path: Path) -> None:
    directory = ReproductionDirectory(tmp_path)
    baseline, piloted, _ = make_options(tmp_path).trainings()
    assert [job.name for job in directory.jobs(baseline)] == [
        "baseline-seed-0", "baseline-seed-0-matching",
    ]  # fmt: skip
    train, matching, part = directory.jobs(piloted)
    assert train.arguments[:2] == ("train", "synthetic-tiny") and "--resume" in train.arguments
    assert "pilot.layers=1" in train.arguments
    assert matching.output == tmp_path / "runs" / "mp-first-layer-seed-0-matching"
    assert part.arguments[part.arguments.index("--part") + 1] == "piloted"


def test_analyses_use_the_held_out_images(tmp_path: Path) -> None:
    files = "data.dataset=train.json", "data.val_dataset=val.json", "data.val_root=/val"
    size = select_size("paper", files)
    options = ReproductionOptions(["table4"], size, [0], tmp_path, Path("/train"))
    train, analysis, *_ = ReproductionDirectory(tmp_path).jobs(options.trainings()[0])
    assert "data.root=/train" in train.arguments
    given = dict(zip(analysis.arguments, analysis.arguments[1:], strict=False))
    assert (given["--dataset"], given["--root"], given["--split"]) == ("val.json", "/val", "val")


def test_a_training_without_clipping_is_registered(tmp_path: Path) -> None:
    options = make_options(tmp_path, "optimizer.clip_norm=.inf")
    for _ in range(2):  # the second time it is compared
        options.directory.register("tiny", options.trainings(), None)


def test_finished_jobs(tmp_path: Path) -> None:
    train, analysis = ReproductionDirectory(tmp_path).jobs(make_options(tmp_path).trainings()[0])
    assert not train.finished and not analysis.finished
    train.output.mkdir(parents=True)
    (train.output / "model_final.pth").touch()
    analysis.output.mkdir(parents=True)
    (analysis.output / "run.json").write_text('{"finished": false}')
    assert train.finished and not analysis.finished
    (analysis.output / "run.json").write_text('{"finished": true}')
    (analysis.output / "summary.json").write_text("{}")
    assert analysis.finished


def test_the_manifest_has_all_trainings_and_calls(tmp_path: Path) -> None:
    first = make_options(tmp_path)
    more = ReproductionOptions(["table7"], select_size("tiny"), [0], tmp_path / "out")
    for one in (first, more, first):
        one.directory.register("tiny", one.trainings(), CALL)
    manifest = json.loads((tmp_path / "out" / "reproduce.json").read_text())
    assert set(manifest["trainings"]) == {
        f"{name}-seed-0"
        for name in ("baseline", "mp-first-layer", "mp-all-layers", "fixed-matching",
                     "auxiliary-loss")
    }  # fmt: skip
    assert len(manifest["calls"]) == 3


@pytest.mark.parametrize("change", [{"calls": 5}, {"trainings": [1]}, {"calls": [1]}])
def test_a_damaged_manifest_is_an_error(tmp_path: Path, change: dict[str, object]) -> None:
    options = make_options(tmp_path)
    options.directory.register("tiny", options.trainings(), CALL)
    path = tmp_path / "out" / "reproduce.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunError, match=r"reproduce\.json: is damaged"):
        options.directory.machines()


def test_an_unsuitable_directory_is_an_error(tmp_path: Path) -> None:
    one = make_options(tmp_path)
    one.directory.register("tiny", one.trainings(), CALL)
    with pytest.raises(RunError, match="size tiny"):
        one.directory.register("small", one.trainings(), CALL)
    other = make_options(tmp_path, "data.batch_size=8", "log_every=1")
    with pytest.raises(RunError, match=r"baseline-seed-0 with other settings \(data.batch_size\)"):
        other.directory.register("tiny", other.trainings(), CALL)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(RunError, match="other files"):
        ReproductionDirectory(tmp_path / "other").register("tiny", one.trainings(), CALL)
    with pytest.raises(RunError, match="is a file"):
        ReproductionDirectory(tmp_path / "other" / "thesis.tex").register(
            "tiny", one.trainings(), CALL
        )


def test_settings_that_version_0_1_wrote_are_compared_by_their_new_names(tmp_path: Path) -> None:
    options = make_options(tmp_path)
    options.directory.register("tiny", options.trainings(), CALL)
    file = tmp_path / "out" / "reproduce.json"
    manifest = json.loads(file.read_text())
    for training in manifest["trainings"].values():
        schedule, model = training["schedule"], training["model"]
        schedule["drops"] = schedule.pop("milestones")
        model["heads"] = model.pop("num_heads")
    file.write_text(json.dumps(manifest))
    options.directory.register("tiny", options.trainings(), CALL)
    changed = make_options(tmp_path, "model.num_heads=2")
    with pytest.raises(RunError, match=r"other settings \(model.num_heads\)"):
        changed.directory.register("tiny", changed.trainings(), CALL)


def test_a_warm_start_is_the_same_after_the_directory_was_moved(tmp_path: Path) -> None:
    size = select_size("photos")
    options = ReproductionOptions(["table4"], size, [0], tmp_path / "out", only=["baseline"])
    options.directory.register("photos", options.trainings(), CALL)
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = replace(options, output=tmp_path / "moved")
    moved.directory.check("photos", moved.trainings())
    (training,) = moved.trainings()
    assert training.config.init == str(tmp_path / "moved" / "trainings" / "warm-start-seed-0")
    create_output_dir(tmp_path / "run", options.trainings()[0].config)
    check_output_dir(tmp_path / "run", training.config, resume=True)
    for init in ("trainings/other", "weights/warm-start-seed-0"):
        other = training.config.model_copy(update={"init": init})
        with pytest.raises(RunError, match=r"other settings \(init\)"):
            check_output_dir(tmp_path / "run", other, resume=True)


def test_temporary_files_of_a_call_that_was_killed_at_its_start(tmp_path: Path) -> None:
    options = make_options(tmp_path)
    first = options.trainings()[0]
    for name in ("out", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "out" / "reproduce.json.tmp").write_text('{"size": ')
    options.directory.register("tiny", [first], CALL)
    (tmp_path / "run" / "config.yaml.tmp").write_text("seed")
    check_output_dir(tmp_path / "run", first.config, resume=True)
