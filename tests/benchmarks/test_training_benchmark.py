"""`mpdiag bench train`: that the same is timed on all sides; how long it takes, no test says."""

import sys
from io import StringIO

import pytest
import torch
from rich.console import Console

from mpdiag.errors import ConfigError, DependencyError
from benchmarks import training
from benchmarks.training import PHASES, Timing, bench_training, table
from trainers.distributed import DistributedContext
from trainers.trainer import Trainer


def test_phases_and_peer_are_timed_on_the_same_batches(small_recipe) -> None:
    found = bench_training(
        small_recipe("data.batch_size=2", "layer_metrics_every=10", "layer_metrics_images=2"),
        steps=2,
        peer=True,
    )
    assert [timing.name for timing in found] == ["baseline", "multi-layer MP", "transformers"]
    assert all(len(timing.steps) == 2 for timing in found)
    assert [set(timing.steps[0]) for timing in found] == [{*PHASES}, {*PHASES}, {"data", "step"}]
    shares = [timing.diagnosis for timing in found]
    assert shares[0] and shares[1] and shares[2] is None
    console = Console(width=160, file=StringIO())
    console.print(table(found))
    text = console.file.getvalue()
    assert all(name in text for name in (*PHASES, "transformers", "images/s"))


def test_medians_leave_waiting_for_data_out_of_a_step() -> None:
    steps = [{"data": 9.0, "forward": 1.0, "backward": b} for b in (1.0, 3.0, 2.0)]
    timing = Timing("x", 6, steps)
    assert timing.step_seconds() == 3.0
    assert timing.images_a_second() == 2.0
    assert timing.as_json()["seconds"] == {"data": 9.0, "forward": 1.0, "backward": 2.0}


def test_a_timed_step_is_the_trainers_step(small_recipe) -> None:
    from mpdiag.data import load_dataset

    config = small_recipe("model.num_classes=7", "method=baseline", "loss.num_points=32")
    data = load_dataset("synthetic", root=config.data.root, split="train")
    samples = [data[i] for i in range(4)]
    trainers = [Trainer(config, data.classes, DistributedContext.initialize()) for _ in range(2)]
    trainers[0].step(samples, range(4))
    bench.OurStep(trainers[1])(samples, bench.Clock(torch.device("cpu")))
    states = [trainer.model.state_dict() for trainer in trainers]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_mistakes_are_one_sentence(small_recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--steps 0"):
        bench_training(small_recipe(), steps=0, peer=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DependencyError, match="--no-peer"):
        bench_training(small_recipe(), steps=1, peer=True)


def test_a_checkout_that_cannot_be_taken(small_recipe, tmp_path, monkeypatch) -> None:
    with pytest.raises(DependencyError, match="holds no package mask2former"):
        bench_training(small_recipe(), steps=1, peer=False, official=tmp_path)
    (tmp_path / "mask2former").mkdir()
    (tmp_path / "mask2former" / "__init__.py").touch()
    monkeypatch.setitem(sys.modules, "detectron2", None)
    before = list(sys.path)
    with pytest.raises(DependencyError, match="needs detectron2"):
        bench_training(small_recipe(), steps=1, peer=False, official=tmp_path)
    assert sys.path == before
