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
from benchmarks.transformers_step import TransformersStep
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


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_transformers_takes_timm_backbones_and_all_weights(small_recipe, norm: str) -> None:
    backbone = f"{{name: test_efficientnet, channels: null, stem_channels: 64, norm: {norm}}}"
    config = small_recipe(f"model.backbone={backbone}")
    data = load_dataset("synthetic", root=config.data.root, split="train")
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"num_classes": len(data.classes)})}
    )
    trainer = Trainer(config, data.classes, DistributedContext.initialize())
    step = TransformersStep(trainer)
    samples = [data[i] for i in range(2)]
    images = [sample.image for sample in samples]
    ours, theirs = trainer.model.eval(), step.model.eval()
    with torch.no_grad():
        found = ours(images).matching
        expected = theirs(ours.preprocess(images))
    for mine, reference in (
        (found.mask_logits[-1], expected.masks_queries_logits),
        (found.class_logits[-1], expected.class_queries_logits),
    ):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5)
    before = [x.clone() for x in theirs.parameters()]
    theirs.train()
    step(samples)
    changed = [not torch.equal(a, b) for a, b in zip(before, theirs.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)


def test_invalid_options(small_recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--steps 0"):
        bench_training(small_recipe(), steps=0, peer=False)
    with pytest.raises(ConfigError, match="gradient_accumulation_steps = 2: steps are timed"):
        bench_training(small_recipe("gradient_accumulation_steps=2"), steps=1, peer=False)
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
