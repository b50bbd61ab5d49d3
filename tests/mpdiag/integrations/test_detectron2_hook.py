"""LayerDiagnosticsHook in a training loop like detectron2's, which need not be installed.

tests/detectron2 has the tests with the trainer and the models of detectron2.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mpdiag.errors import RunError
from mpdiag.store.run import Run

from .test_batch import Instances
from .test_monitor import Segmenter, left_and_right


class DictionarySegmenter(nn.Module):
    """Takes batches of detectron2's dictionaries; a part of it may be frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Segmenter()
        self.frozen = nn.BatchNorm2d(3)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        loss: Tensor = self.inner(torch.stack([one["image"] for one in batched_inputs]))
        return loss


class KeepsGroundTruth(nn.Module):
    """Passes only images to the module that is recorded, as mpdiag's meta-architecture."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        return self.model([one["image"] for one in batched_inputs])


class Trainer(SimpleNamespace):
    """The order of calls of detectron2's TrainerBase.train."""

    def train(self, hook: Any, batch: Any, fails_at: int | None = None) -> None:
        hook.trainer = self
        try:
            hook.before_train()
            for step in range(self.start_iter, self.max_iter):
                self.iter = step
                if step == fails_at:
                    raise RuntimeError("out of memory")
                self.model(batch)
                hook.after_step()
            self.iter += 1
        finally:
            hook.after_train()


@pytest.fixture
def hook_class(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    engine, hooks = ModuleType("detectron2.engine"), ModuleType("detectron2.engine.hooks")
    vars(engine)["HookBase"] = object
    vars(hooks)["PeriodicWriter"] = type("PeriodicWriter", (), {})
    for module in (ModuleType("detectron2"), engine, hooks):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "mpdiag.integrations.detectron2", raising=False)
    yield importlib.import_module("mpdiag.integrations.detectron2").LayerDiagnosticsHook
    del sys.modules["mpdiag.integrations.detectron2"]  # it has the classes above


@pytest.fixture
def batch() -> list[dict[str, Any]]:
    truth = left_and_right()
    instances = Instances(gt_classes=truth["labels"], gt_masks=truth["masks"], image_size=(8, 16))
    return [{"image": torch.ones(3, 8, 16), "instances": instances}]


def trainer_of(model: nn.Module, steps: int) -> Trainer:
    values: dict[str, float] = {}
    storage = SimpleNamespace(
        values=values, put_scalar=lambda name, value, **_: values.update({name: value})
    )
    return Trainer(model=model, start_iter=0, iter=0, max_iter=steps, storage=storage, _hooks=[])


def test_a_run_is_written_only_at_the_end_of_a_training(
    hook_class: Any, batch: Any, tmp_path: Path
) -> None:
    model = DictionarySegmenter()
    options = {"every": 1, "held_out": [batch], "eval_period": 1, "run": tmp_path / "run"}

    trainer = trainer_of(model, 2)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train(hook_class(**options), batch, fails_at=1)
    assert "held_out/util/1" in trainer.storage.values and not (tmp_path / "run").exists()
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in model.modules())
    model.sem_seg_head = SimpleNamespace(num_classes=2)  # as in official models
    model.metadata = SimpleNamespace(thing_classes=["cat", "dog"])
    trainer_of(model, 2).train(hook_class(**options), batch)
    run = Run.open(tmp_path / "run")
    assert run.summary["num_images"] == 1
    assert [one["name"] for one in run.header["classes"]] == model.metadata.thing_classes


def test_held_out_images_leave_the_mode_of_each_module(hook_class: Any, batch: Any) -> None:
    model = DictionarySegmenter()
    model.frozen.eval()
    modes = [module.training for module in model.modules()]
    trainer_of(model, 1).train(hook_class(held_out=[batch]), batch)
    assert [module.training for module in model.modules()] == modes
    trainer = trainer_of(model, 1)
    held_out = [[{"image": None, "instances": None}]]
    with pytest.raises(TypeError):
        trainer.train(hook_class(held_out=held_out), batch)
    assert [module.training for module in model.modules()] == modes


def test_gt_reach_a_model_that_does_not_pass_them_on(
    hook_class: Any, small_model: nn.Module, tmp_path: Path
) -> None:
    masks = torch.zeros(2, 32, 64, dtype=torch.bool)
    masks[0, :, :32], masks[1, :, 32:] = True, True
    instances = Instances(gt_classes=torch.tensor([0, 1]), gt_masks=masks, image_size=(32, 64))
    batch = [{"image": torch.full((3, 32, 64), 9.0), "instances": instances}]
    trainer = trainer_of(KeepsGroundTruth(small_model).train(), 2)
    trainer.train(hook_class(every=1, held_out=[batch], run=tmp_path / "run"), batch)
    values = trainer.storage.values
    assert {"util/1", "loss_mask/1", "dead_queries"} <= values.keys()
    assert {"held_out/util/1", "held_out/loss_mask/1"} <= values.keys()
    assert Run.open(tmp_path / "run").summary["num_gt"] == 2
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in trainer.model.modules())


def test_a_run_that_exists_ends_the_training_before_its_first_step(
    hook_class: Any, batch: Any, tmp_path: Path
) -> None:
    options = {"every": 1, "held_out": [batch], "run": tmp_path / "run"}
    model = DictionarySegmenter()
    trainer_of(model, 1).train(hook_class(**options), batch)
    again = trainer_of(model, 2)
    with pytest.raises(RunError, match="run: exists, but a new run is to be written"):
        again.train(hook_class(**options), batch)
    assert not again.storage.values


def test_resume_of_a_finished_training_measures_nothing_and_reports_no_error(
    hook_class: Any, batch: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"every": 1, "held_out": [batch], "run": tmp_path / "run"}
    trainer_of(DictionarySegmenter(), 1).train(hook_class(**options), batch)
    resumed = trainer_of(DictionarySegmenter(), 1)
    resumed.start_iter = resumed.iter = 1
    resumed.train(hook_class(**options), batch)
    assert not resumed.storage.values and not caplog.records
