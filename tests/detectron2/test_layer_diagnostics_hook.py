"""LayerDiagnosticsHook in detectron2's trainer, on the official models."""

import importlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from mpdiag.errors import NonFiniteError
from mpdiag.store.run import Run

LAYERS = 4
EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune_detectron2.py"


def train(model: nn.Module, batch: Any, hook: Any, steps: int) -> Any:
    engine = importlib.import_module("detectron2.engine")
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    trainer = engine.SimpleTrainer(model.train(), [batch] * steps, optimizer)
    trainer.register_hooks([hook])
    trainer.train(0, steps)
    return trainer.storage


def test_hook_puts_layers_in_the_storage(
    build_official: Callable[[], nn.Module], inputs: Any, tmp_path: Path, detectron2: ModuleType
) -> None:
    from mpdiag.integrations.detectron2 import LayerDiagnosticsHook

    hook = LayerDiagnosticsHook(every=2, held_out=[inputs] * 9, batches=1, run=tmp_path / "run")
    storage = train(build_official(), inputs, hook, 3)
    latest = storage.latest()
    names = [f"miou_l/{layer}" for layer in range(1, LAYERS + 1)]
    assert {latest[name][1] for name in (*names, "util/0", "dead_queries")} == {1}  # of step 2
    run = Run.open(tmp_path / "run")
    assert run.summary["num_images"] == len(inputs)
    for layer in run.summary["layers"]:
        value, step = latest[f"held_out/miou_l/{layer['layer']}"]
        assert step == 2 and value == pytest.approx(layer["miou_l"], abs=1e-12)


def test_losses_are_those_of_the_criterion(
    build_official: Callable[[], nn.Module], inputs: Any
) -> None:
    from mpdiag import LayerMonitor

    model = build_official().train()
    monitor = LayerMonitor(model, every=1)
    losses = model(inputs)
    values = monitor.step()
    for layer in range(LAYERS + 1):
        suffix = "" if layer == LAYERS else f"_{layer}"
        for name, weight in (("loss_ce", 2), ("loss_mask", 5), ("loss_dice", 5)):
            own = weight * values[f"{name}/{layer}"]
            assert own == pytest.approx(float(losses[f"{name}{suffix}"].detach()), rel=1e-5)


def test_a_prediction_that_is_not_finite_is_named_before_the_matcher_fails(
    build_official: Callable[[], nn.Module], inputs: Any
) -> None:
    from mpdiag import LayerMonitor

    model = build_official().train()
    LayerMonitor(model, every=50)
    with torch.no_grad():
        model.get_parameter("sem_seg_head.predictor.class_embed.bias")[0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"class prediction \(6 of 6 queries\) of layer 4, im"):
        model(inputs)


def test_example(
    official_config: Any, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family == "mpformer":
        pytest.skip("the example is for Mask2Former")
    official_config.DATALOADER.NUM_WORKERS = 0
    official_config.INPUT.IMAGE_SIZE, official_config.SOLVER.IMS_PER_BATCH = 64, 1
    (tmp_path / "small.yaml").write_text(official_config.dump())
    square = [8, 8, 40, 8, 40, 40, 8, 40]
    annotation = {"bbox": [8, 8, 32, 32], "area": 1024, "iscrowd": 0, "segmentation": [square]}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 64, "width": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **annotation}],
        "categories": [{"id": 1, "name": "square"}],
    }
    (tmp_path / "file.json").write_text(json.dumps(content))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    paths = [str(tmp_path / "file.json"), str(tmp_path)] * 2
    options = ["--train", *paths[:2], "--val", *paths[2:], "--output", str(tmp_path / "output")]
    changes = ["--opts", "SOLVER.MAX_ITER", "2", "MODEL.WEIGHTS", ""]
    words = ["example", str(tmp_path / "small.yaml"), *options, "--every", "1", *changes]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert Run.open(tmp_path / "output" / "run").summary["num_images"] == 1
    lines = (tmp_path / "output" / "metrics.json").read_text()
    assert "held_out/miou_l/1" in lines
