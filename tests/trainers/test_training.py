"""Training runs: the loss falls, output files are complete, errors come before any file."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mpdiag.checkpoints import load_checkpoint
from mpdiag.errors import CheckpointError, ConfigError, RunError
from trainers.distributed import DistributedContext
from trainers.loop import train
from trainers.methods import METHODS
from trainers.recipe import load_recipe
from trainers.trainer import Trainer

QUIET = Console(quiet=True)


def logged(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def test_training_lowers_the_loss_and_writes_its_files(tmp_path: Path, small_recipe) -> None:
    config = small_recipe("schedule.iterations=40", "method=piloted", "data.augment.flip=false")
    output = tmp_path / "run"
    final = train(config, output, console=QUIET)
    lines = logged(output)
    assert [line["iteration"] for line in lines] == list(range(40))
    first = sum(line["total_loss"] for line in lines[:5])
    assert sum(line["total_loss"] for line in lines[-5:]) < 0.8 * first
    names = {key for key in lines[0] if key.startswith("loss_")}
    terms = ("ce", "mask", "dice")
    expected = {
        f"loss_{term}{part}{layer}"
        for term in terms
        for part in ("", "_dn")
        for layer in ("", "_0", "_1", "_2")
    }
    assert names == expected
    found = {path.name for path in output.iterdir() if "tfevents" not in path.name}
    assert found == {"config.yaml", "metrics.json", "last.pth", "model_final.pth"}
    assert any("tfevents" in path.name for path in output.iterdir())
    loaded = load_checkpoint(final)
    assert loaded.recipe is not None and loaded.recipe.method == "piloted"
    assert loaded.classes is not None and len(loaded.classes) == loaded.model.config.num_classes


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_steps(tmp_path: Path, small_recipe, method: str) -> None:
    config = small_recipe("schedule.iterations=2", f"method={method}")
    train(config, tmp_path / "run", console=QUIET)
    assert all(line["total_loss"] > 0 for line in logged(tmp_path / "run"))


def test_other_directories_are_refused(tmp_path: Path, small_recipe) -> None:
    output = tmp_path / "run"
    output.mkdir()
    (output / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="holds other files"):
        train(small_recipe(), output, console=QUIET)
    assert [path.name for path in output.iterdir()] == ["thesis.tex"]
    train(small_recipe("schedule.iterations=1"), tmp_path / "done", console=QUIET)
    with pytest.raises(RunError, match="finished"):
        train(small_recipe("schedule.iterations=1"), tmp_path / "done", console=QUIET)
    with pytest.raises(RunError, match="other settings"):
        train(small_recipe("schedule.iterations=2"), tmp_path / "done", resume=True, console=QUIET)


def test_errors_come_before_any_file_is_written(tmp_path: Path, small_recipe) -> None:
    output = tmp_path / "run"
    with pytest.raises(
        ConfigError, match="method = pilotted: unknown method 'pilotted'; choose from baseline"
    ):
        train(small_recipe("method=pilotted"), output, console=QUIET)
    assert not output.exists()
    with pytest.raises(ConfigError, match="init = synthetic-tiny: backbone"):
        train(small_recipe("init=synthetic-tiny"), tmp_path / "other", console=QUIET)
    with pytest.raises(CheckpointError, match="no such file"):
        train(small_recipe("init=nothing.pth"), tmp_path / "third", console=QUIET)
    assert not any((tmp_path / name).exists() for name in ("other", "third"))


def test_packaged_weights_match_the_tiny_recipe(data_root: Path, tmp_path: Path) -> None:
    config = load_recipe("synthetic-tiny")
    assert config.init == "synthetic-tiny"
    config = config.model_copy(update={"model": config.model.model_copy(update={"num_classes": 7})})
    distributed = DistributedContext.initialize()
    trainer = Trainer(config, [], distributed)
    fresh = Trainer(config.model_copy(update={"init": None}), [], distributed)
    changed = [
        name
        for name, tensor in trainer.model.state_dict().items()
        if not torch.equal(tensor, fresh.model.state_dict()[name])
    ]
    assert changed and not any(name.startswith("decoder.") for name in changed)
    weights = [name for name in trainer.model.state_dict() if name.endswith("conv1.weight")]
    assert weights and set(weights) <= set(changed)
