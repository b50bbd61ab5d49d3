"""`mpdiag bench train`."""

import sys

import pytest
import torch

from benchmarks.training import (
    PHASES,
    PhaseClock,
    StepTiming,
    TrainerStep,
    bench_training,
    training_table,
)
from mpdiag.data import load_dataset
from mpdiag.errors import ConfigError, DependencyError
from trainers.distributed import DistributedContext
from trainers.trainer import Trainer


def test_all_implementations_are_timed(small_recipe, render) -> None:
    timings = bench_training(
        small_recipe("layer_metrics_every=10", "layer_metrics_images=2"), steps=2, peer=True
    )
    assert [timing.name for timing in timings] == ["baseline", "multi-layer MP", "transformers"]
    assert all(len(timing.steps) == 2 for timing in timings)
    assert [set(timing.steps[0]) for timing in timings] == [{*PHASES}, {*PHASES}, {"data", "step"}]
    fractions = [timing.layer_metrics for timing in timings]
    assert fractions[0] and fractions[1] and fractions[2] is None
    text = render(training_table(timings))
    assert all(name in text for name in (*PHASES, "transformers", "images/s"))


def test_step_time_excludes_waiting_for_data() -> None:
    steps = [{"data": 9.0, "forward": 1.0, "backward": b} for b in (1.0, 3.0, 2.0)]
    timing = StepTiming("x", 6, steps)
    assert timing.step_seconds() == 3.0
    assert timing.images_per_second() == 2.0
    assert timing.as_json()["seconds"] == {"data": 9.0, "forward": 1.0, "backward": 2.0}


@pytest.mark.parametrize("method", ["baseline", "piloted"])
def test_timed_step_equals_trainer_step(small_recipe, method: str) -> None:
    config = small_recipe(
        "model.num_classes=7",
        f"method={method}",
        "loss.num_points=32",
        "model.label_embedding=true",
    )
    data = load_dataset("synthetic", root=config.data.root, split="train")
    samples = [data[i] for i in range(4)]
    trainers = [Trainer(config, data.classes, DistributedContext.initialize()) for _ in range(2)]
    trainers[0].step(samples, range(4))
    TrainerStep(trainers[1])(samples, PhaseClock(torch.device("cpu")))
    states = [trainer.model.state_dict() for trainer in trainers]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_invalid_options(small_recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--steps 0"):
        bench_training(small_recipe(), steps=0, peer=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DependencyError, match="--no-peer"):
        bench_training(small_recipe(), steps=1, peer=True)


def test_invalid_checkout(small_recipe, tmp_path, monkeypatch) -> None:
    with pytest.raises(DependencyError, match="has no package mask2former"):
        bench_training(small_recipe(), steps=1, peer=False, official=tmp_path)
    (tmp_path / "mask2former").mkdir()
    (tmp_path / "mask2former" / "__init__.py").touch()
    monkeypatch.setitem(sys.modules, "detectron2", None)
    before = list(sys.path)
    with pytest.raises(DependencyError, match="needs detectron2"):
        bench_training(small_recipe(), steps=1, peer=False, official=tmp_path)
    assert sys.path == before
