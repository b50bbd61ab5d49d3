"""Values of trainings and runs, and messages about missing ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reports.reproduction import TrainedRun, logged_steps, seconds_per_step
from reports.reproduction.results import SummaryMetric, TrainingResults
from reports.reproduction.training_log import training_seconds

MakeTrained = Callable[..., list[TrainedRun]]
SMALL = {"images": 3, "queries": 4, "layers": 3}


def test_values_of_the_summary(make_trained: MakeTrained) -> None:
    (one,) = make_trained(["figure1"], [0], **SMALL)
    summary = json.loads((one.parts["matching"] / "summary.json").read_text())
    layers = summary["layers"]
    results = TrainingResults.read([one])
    for metric, expected in (
        (SummaryMetric("ap", "AP"), summary["ap"]["ap"]),
        (SummaryMetric("util", "", 1), layers[0]["util"]),
        (SummaryMetric("miou_l", "", 3), layers[2]["miou_l"]),
        (SummaryMetric("miou_l", "", 4), None),
        (SummaryMetric("util", ""), (layers[0]["util"] + layers[1]["util"]) / 2),
        (SummaryMetric("miou_l", ""), sum(layer["miou_l"] for layer in layers) / 3),
    ):
        assert results.values("baseline", metric) == {0: pytest.approx(expected, abs=1e-15)}
    assert results.missing == [] and results.num_layers == 3


def test_training_time_counts_every_step_once(make_trained: MakeTrained) -> None:
    (one,) = make_trained(["figure1"], [0], **SMALL)
    assert logged_steps(one.directory) == 40 and seconds_per_step(one.directory) == 0.5
    assert training_seconds(one.directory) == pytest.approx(0.5 * 40)
    assert TrainingResults.read([one]).hours("baseline") == {0: pytest.approx(20 / 3600)}
    with (one.directory / "metrics.json").open("a") as file:
        file.write('{"iteration": 39, "ap": 0.1}\n{"iteration": 4')  # evaluation; incomplete line
    assert training_seconds(one.directory) == pytest.approx(0.5 * 40)
    (one.directory / "metrics.json").unlink()
    assert training_seconds(one.directory) is None and logged_steps(one.directory) == 0


def test_missing_and_unfinished_runs(make_trained: MakeTrained, tmp_path: Path) -> None:
    trained = make_trained(["table1"], [0], **SMALL)
    baseline, first, multi = trained
    (baseline.directory / "model_final.pth").unlink()
    log = baseline.directory / "metrics.json"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    shutil.rmtree(first.parts["piloted"])
    header = multi.parts["matching"] / "run.json"
    header.write_text(json.dumps({**json.loads(header.read_text()), "finished": False}))
    missing = "; ".join(TrainingResults.read(trained).missing)
    assert "baseline-seed-0 is not trained: 1 of 40 steps" in missing
    assert "mp-first-layer-seed-0-piloted does not exist" in missing
    assert "mp-all-layers-seed-0-matching is unfinished" in missing
    assert str(tmp_path) not in missing


@pytest.mark.parametrize("steps", [0, 1, 400])
def test_steps_are_read_at_the_end_of_the_log(tmp_path: Path, steps: int) -> None:
    line = {"total_loss": 1.0, "time": 0.5, "notes": "x" * 2000}
    lines = [json.dumps({"iteration": step, **line}) for step in range(steps)]
    text = "\n".join([*lines, json.dumps({"iteration": steps, "ap": 0.5}), '{"iteration": 9'])
    (tmp_path / "metrics.json").write_text(text)
    assert logged_steps(tmp_path) == steps
