"""Training runs: the loss falls, a stopped run goes on as if it had not stopped."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mpdiag.checkpoints import load_checkpoint
from mpdiag.errors import CheckpointError, ConfigError, RunError, TrainingError
from trainers.loop import Trainer, train
from trainers.recipe import load_recipe

QUIET = Console(quiet=True)


def logged(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def test_a_training_run_learns_and_leaves_what_it_promises(tmp_path: Path, small_recipe) -> None:
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


@pytest.mark.parametrize("method", ["baseline", "piloted", "per-pixel"])
def test_every_method_takes_steps(tmp_path: Path, small_recipe, method: str) -> None:
    config = small_recipe("schedule.iterations=2", f"method={method}")
    train(config, tmp_path / "run", console=QUIET)
    assert all(line["total_loss"] > 0 for line in logged(tmp_path / "run"))


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, small_recipe) -> None:
    config = small_recipe(
        "schedule.iterations=8", "checkpoint_every=3", "method=piloted", "loss.points=32"
    )
    train(config, tmp_path / "whole", console=QUIET)
    settings = tmp_path / "recipe.json"
    settings.write_text(config.model_dump_json())
    # The other run is killed after its first checkpoint, in a process of its own.
    script = (
        "import sys, torch; from pathlib import Path; from rich.console import Console\n"
        "from mpdiag.config import TrainConfig; from trainers.loop import train\n"
        "config = TrainConfig.model_validate_json(Path(sys.argv[1]).read_text())\n"
        "train(config, Path(sys.argv[2]), console=Console(quiet=True))\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", script, settings, tmp_path / "killed"])
    while not (tmp_path / "killed" / "last.pth").exists() and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    if (tmp_path / "killed" / "model_final.pth").exists():
        pytest.skip("the run ended before it could be killed")
    with pytest.raises(RunError, match="--resume"):
        train(config, tmp_path / "killed", console=QUIET)
    train(config, tmp_path / "killed", resume=True, console=QUIET)
    first = torch.load(tmp_path / "whole" / "model_final.pth", weights_only=True)["model"]
    second = torch.load(tmp_path / "killed" / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = [
        [line["total_loss"] for line in logged(tmp_path / run)] for run in ("whole", "killed")
    ]
    assert losses[0] == losses[1]


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path, small_recipe) -> None:
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


def test_a_loss_that_is_no_number_is_named(tmp_path: Path, small_recipe, data_root: Path) -> None:
    from mpdiag.data import load_dataset

    dataset = load_dataset("synthetic", root=data_root, split="train")
    config = small_recipe("method=per-pixel")
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"num_classes": len(dataset.classes)})}
    )
    trainer = Trainer(config, dataset.classes, tmp_path)
    with torch.no_grad():
        trainer.model.pixel_decoder.mask_features.bias.fill_(torch.nan)
    with pytest.raises(
        TrainingError, match=r"step 0: loss_class_4, loss_offset_4 not finite.*1, 2"
    ):
        trainer.step([dataset[0], dataset[1]])


def test_mistakes_are_named_before_anything_is_written(tmp_path: Path, small_recipe) -> None:
    output = tmp_path / "run"
    with pytest.raises(ConfigError, match="method = pilotted: no such method; there are baseline"):
        train(small_recipe("method=pilotted"), output, console=QUIET)
    assert not output.exists()
    with pytest.raises(ConfigError, match="init = synthetic-tiny: its backbone"):
        train(small_recipe("init=synthetic-tiny"), tmp_path / "other", console=QUIET)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        train(small_recipe("init=nothing.pth"), tmp_path / "third", console=QUIET)
    assert not any((tmp_path / name).exists() for name in ("other", "third"))


def test_packaged_weights_fit_the_tiny_recipe(data_root: Path, tmp_path: Path) -> None:
    config = load_recipe("synthetic-tiny")
    assert config.init == "synthetic-tiny"
    config = config.model_copy(update={"model": config.model.model_copy(update={"num_classes": 7})})
    trainer = Trainer(config, [], tmp_path)
    fresh = Trainer(config.model_copy(update={"init": None}), [], tmp_path)
    changed = [
        name
        for name, tensor in trainer.model.state_dict().items()
        if not torch.equal(tensor, fresh.model.state_dict()[name])
    ]
    assert changed and not any(name.startswith("decoder.") for name in changed)
    weights = [name for name in trainer.model.state_dict() if name.endswith("conv1.weight")]
    assert weights and set(weights) <= set(changed)
