"""A batch gives the same step in one part, in two parts, and over two processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mpdiag.config import TrainConfig

SCRIPT = Path(__file__).with_name("take_steps.py")
# Batch norm would have other statistics. Everything random is on.
SETTINGS = (
    "model.num_classes=7",
    "model.label_embedding=true",
    "loss.num_points=64",
    "schedule.warmup_iterations=1",
    "pilot.num_queries=9",
    "model.backbone={name: resnet18, channels: [8, 8, 16, 16], stem_channels: 8, norm: frozen}",
)


def run(config: TrainConfig, folder: Path, processes: int) -> dict[str, Any]:
    recipe, out = folder / f"recipe-{processes}.json", folder / f"out-{processes}.pt"
    recipe.write_text(config.model_dump_json())
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(SCRIPT), str(recipe), "2", str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(out, weights_only=True)


def assert_same_step(found: dict[str, Any], expected: dict[str, Any]) -> None:
    first, second = zip(found["losses"], expected["losses"], strict=True)
    assert first[0] == pytest.approx(first[1], rel=1e-5, abs=1e-6)
    # AdamW's first step turns rounding of gradients near zero into steps of full size.
    assert second[0] == pytest.approx(second[1], rel=1e-2)
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        difference = (found["gradients"][name] - gradient).norm()
        assert difference <= 1e-4 * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("method", ["piloted+auxiliary-loss", "all"])
def test_two_processes_and_two_parts_equal_one(
    small_recipe, combined_methods: str, tmp_path: Path, method: str
) -> None:
    config = small_recipe(*SETTINGS, f"method={combined_methods if method == 'all' else method}")
    alone = run(config, tmp_path, 1)
    assert_same_step(run(config, tmp_path, 2), alone)
    parts = config.model_copy(update={"gradient_accumulation_steps": 2})
    assert_same_step(run(parts, tmp_path, 1), alone)
