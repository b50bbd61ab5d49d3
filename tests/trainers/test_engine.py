"""Precision, compilation, evaluation during training, all tasks, and torchrun."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from mpdiag.analysis import analyze
from mpdiag.data import load_dataset
from mpdiag.data.problems import DataProblem
from mpdiag.errors import CheckpointError, TrainingError
from mpdiag.ops import tf32
from trainers.distributed import DistributedContext
from trainers.loop import train
from trainers.optimizer import lr_factor
from trainers.trainer import Trainer
from trainers.validation import validate

from ..processes import run_command, torchrun
from .stop_evaluation import stop_rank_1

QUIET = Console(quiet=True)


def scores_of(output: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return [line for line in lines if "total_loss" not in line]


@pytest.mark.parametrize(
    "task, primary_metric", [("instance", "ap"), ("panoptic", "pq"), ("semantic", "miou")]
)
def test_best_model_by_the_primary_metric_of_the_task(
    small_recipe, tmp_path: Path, task: str, primary_metric: str
) -> None:
    config = small_recipe(
        "schedule.iterations=12",
        "evaluate_every=4",
        f"data.task={task}",
        "method=piloted",
        "seed=1",
    )
    output = tmp_path / "run"
    final = train(config, output, console=QUIET)
    scores = scores_of(output)
    assert [line["iteration"] for line in scores] == [3, 7, 11]
    if task == "semantic":  # AP and PQ stay near 0 in so few steps
        assert len({line[primary_metric] for line in scores}) == 3
    best = max(scores, key=lambda line: line[primary_metric])
    kept = torch.load(output / "model_best.pth", weights_only=True)["iteration"]
    assert kept == best["iteration"] + 1
    # The analysis of the final model agrees with the last evaluation, on the images of the recipe.
    summary = analyze(final, None, tmp_path / "analysis")
    assert summary[primary_metric][primary_metric] == pytest.approx(
        scores[-1][primary_metric], abs=1e-12
    )


@pytest.mark.parametrize("name", ["ade20k", "cityscapes"])
@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_ade20k_and_cityscapes_train(
    small_recipe, request: pytest.FixtureRequest, tmp_path: Path, name: str, task: str
) -> None:
    config = small_recipe(
        f"data.dataset={name}",
        f"data.root={request.getfixturevalue(f'{name}_root')}",
        f"data.task={task}",
        "data.augment={short_sides: [48, 64], crop: [64, 64], single_category_max_area: 0.9}",
        "data.augment.color=true",
        "data.short_side=64",
        "data.batch_size=2",
        "schedule.iterations=2",
        "evaluate_every=2",
        "method=piloted",
    )
    train(config, tmp_path / "run", console=QUIET)
    assert len(scores_of(tmp_path / "run")) == 1


def test_bf16_has_similar_losses_and_float32_weights(small_recipe) -> None:
    losses = {}
    for precision in ("float32", "bf16"):
        config = small_recipe("model.num_classes=7", "method=baseline", f"precision={precision}")
        data = load_dataset("synthetic", root=config.data.root, split="train")
        trainer = Trainer(config, data.classes, DistributedContext.initialize())
        seen = []
        handle = trainer.model.decoder.class_embed.register_forward_hook(
            lambda _, __, output, seen=seen: seen.append(output.dtype)
        )
        found, norm = trainer.step([data[i] for i in range(4)], range(4))
        handle.remove()
        assert seen == [torch.float32 if precision == "float32" else torch.bfloat16]
        assert all(x.dtype == torch.float32 for x in trainer.model.parameters())
        assert all(x.dtype == torch.float32 for x in found.values()) and norm.isfinite()
        losses[precision] = found
    # In M^0, before any layer, rounding does not change the matching yet.
    for term in ("ce", "mask", "dice"):
        exact = losses["float32"][f"loss_{term}_0"].item()
        assert losses["bf16"][f"loss_{term}_0"].item() == pytest.approx(exact, rel=0.02)


def test_channels_last_takes_the_same_step(small_recipe) -> None:
    found = []
    for setting in ("false", "true"):
        config = small_recipe("model.num_classes=7", f"channels_last={setting}", "method=baseline")
        data = load_dataset("synthetic", root=config.data.root, split="train")
        trainer = Trainer(config, data.classes, DistributedContext.initialize())
        weights = trainer.model.pixel_decoder.output.conv.weight
        assert weights.is_contiguous(memory_format=torch.channels_last) == (setting == "true")
        losses, _ = trainer.step([data[0], data[1]], range(2))
        found.append({name: value.item() for name, value in losses.items()})
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_tf32_is_set_for_training_and_off_in_an_analysis(small_recipe, tmp_path: Path) -> None:
    used = []

    def note(*_: object) -> None:
        used.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))

    config = small_recipe("model.num_classes=7", "tf32=all")
    data = load_dataset("synthetic", root=config.data.root, split="val")
    with tf32("convolutions"):
        trainer = Trainer(config, data.classes, DistributedContext.initialize())
        note()
        trainer.model.register_forward_hook(note)
        analyze(trainer.model, data, tmp_path / "run", limit=1, evaluate=False)
        note()
    assert used == [(True, True), (False, False), (True, True)]


@pytest.mark.slow
# torch's compiler raises this warning, which is hidden by default.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_model_takes_the_same_steps(small_recipe, monkeypatch) -> None:
    """Uses the front end of the compiler only; torch tests its back ends."""
    compiled = []

    def compile_for_test(module: torch.nn.Module) -> None:
        compiled.append(type(module).__name__)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_for_test)
    found = []
    for setting in ("false", "true"):
        config = small_recipe("model.num_classes=7", f"compile={setting}", "method=baseline")
        data = load_dataset("synthetic", root=config.data.root, split="train")
        trainer = Trainer(config, data.classes, DistributedContext.initialize())
        found.append(trainer.step([data[i] for i in range(4)], range(4))[0])
        names = set(trainer.model.state_dict())
        assert not any("_orig_mod" in name for name in names)
    assert compiled == ["FeatureListNet", "PixelDecoder", *["DecoderLayer"] * 3]
    for name, value in found[0].items():
        assert found[1][name].item() == pytest.approx(value.item(), rel=1e-4), name


def test_out_of_memory_on_resume_does_not_blame_the_checkpoint(
    small_recipe, tmp_path: Path, monkeypatch
) -> None:
    config = small_recipe("model.num_classes=7", "method=baseline")
    classes = load_dataset("synthetic", root=config.data.root, split="train").classes
    trainer = Trainer(config, classes, DistributedContext.initialize())
    path = trainer.save(tmp_path / "last.pth")

    def fail(state: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr(trainer.optimizer, "load_state_dict", fail)
    with pytest.raises(TrainingError, match=r"last\.pth: out of memory .* is intact"):
        trainer.restore(path)


def test_out_of_memory_names_the_settings(small_recipe, tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(TrainingError, match=r"step 0: out of memory .*accumulation_steps"):
        train(small_recipe("schedule.iterations=1"), tmp_path / "run", console=QUIET)


def test_the_logged_learning_rate_is_that_of_the_step(small_recipe, tmp_path: Path) -> None:
    config = small_recipe(
        "schedule.iterations=3", "schedule.milestones=[0.34, 0.67]", "schedule.gammas=[0.1, 0.1]",
        "schedule.warmup_iterations=0", "log_every=1", "optimizer.learning_rate=0.1",
    )  # fmt: skip
    train(config, tmp_path / "run", console=QUIET)
    lines = map(json.loads, (tmp_path / "run" / "metrics.json").read_text().splitlines())
    rates = [line["lr"] for line in lines if "lr" in line]
    assert rates == pytest.approx([lr_factor(k, config.schedule) * 0.1 for k in range(3)])


def test_a_resumed_training_needs_no_initial_weights(
    small_recipe, tmp_path: Path, monkeypatch
) -> None:
    """Another machine may have neither the file of `init` nor a network."""
    config = small_recipe("schedule.iterations=2", "checkpoint_every=1")
    train(config, tmp_path / "run", console=QUIET)
    (tmp_path / "run" / "model_final.pth").unlink()

    def unavailable(*_: object, **options: object) -> None:
        raise AssertionError("initial weights are read")

    monkeypatch.setattr("trainers.trainer.initialize_model", unavailable)
    train(config, tmp_path / "run", resume=True, console=QUIET)
    assert (tmp_path / "run" / "model_final.pth").is_file()


def test_without_encoder_layers_every_trained_parameter_has_a_gradient(small_recipe) -> None:
    """As DistributedDataParallel requires."""
    config = small_recipe(
        "model.encoder_layers=0", "model.decoder_layers=3", "model.num_classes=7", "init=null"
    )
    data = load_dataset("synthetic", root=config.data.root, split="train")
    trainer = Trainer(config, data.classes, DistributedContext.initialize())
    trainer.step([data[0], data[1]], [0, 1])
    for name, parameter in trainer.method.named_parameters():
        assert parameter.grad is not None or not parameter.requires_grad, name


@pytest.mark.parametrize(
    "change",
    [
        {"method": [1]},
        {"method": None},
        {"iteration": float("inf")},
        {"iteration": 10**9},
        {"iteration": -1},
        {"evaluated": float("inf")},
        {"best": "x"},
        {"optimizer": {"state": {}}},
    ],
)
def test_damaged_state_of_a_run_is_an_error(
    small_recipe, tmp_path: Path, change: dict[str, object]
) -> None:
    config = small_recipe("model.num_classes=7", "schedule.iterations=10")
    classes = load_dataset("synthetic", root=config.data.root, split="train").classes
    trainer = Trainer(config, classes, DistributedContext.initialize())
    path = trainer.save(tmp_path / "last.pth")
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(CheckpointError, match=r"last\.pth: does not match this run's recipe"):
        trainer.restore(path)


@pytest.mark.slow
def test_torchrun_equals_one_process(small_recipe, tmp_path: Path) -> None:
    config = small_recipe(
        "schedule.iterations=4",
        "evaluate_every=2",
        "checkpoint_every=2",
        "method=piloted",
        "model.backbone.norm=frozen",
        "optimizer.learning_rate=1.0e-6",
    )
    recipe, two = tmp_path / "recipe.yaml", tmp_path / "two"
    recipe.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    out = torchrun(tmp_path / "streams", 2, run_command, "train", recipe, "--output", two)
    assert out.count(f"{two}/model_final.pth\n") == 1
    train(config, tmp_path / "one", console=QUIET)
    files = [{path.name for path in (tmp_path / run).iterdir()} for run in ("one", "two")]
    plain = [{name for name in names if "tfevents" not in name} for names in files]
    assert plain[0] == plain[1]
    lines = [
        [json.loads(line) for line in (tmp_path / run / "metrics.json").read_text().splitlines()]
        for run in ("one", "two")
    ]
    assert len(lines[0]) == len(lines[1]) == 6
    for one, two in zip(*lines, strict=True):
        assert one.keys() == two.keys()
        for key in one.keys() - {"time", "data_time", "eta_seconds"}:
            assert two[key] == pytest.approx(one[key], rel=1e-3, abs=1e-6), key


def test_layer_metrics_equal_the_analysis(small_recipe, data_root: Path, tmp_path: Path) -> None:
    config = small_recipe(
        "schedule.iterations=6", "layer_metrics_every=3", "layer_metrics_images=4"
    )
    final = train(config, tmp_path / "run", console=QUIET)
    lines = scores_of(tmp_path / "run")
    assert [line["iteration"] for line in lines] == [2, 5]
    summary = analyze(
        final, "synthetic", tmp_path / "analysis", root=data_root, limit=4, evaluate=False
    )
    assert lines[-1]["util/0"] == pytest.approx(summary["util_m0"], abs=1e-9)
    for layer in summary["layers"]:
        assert lines[-1][f"util/{layer['layer']}"] == pytest.approx(layer["util"], abs=1e-9)
        assert lines[-1].get(f"miou_l/{layer['layer']}") == pytest.approx(layer["miou_l"], abs=1e-9)


def test_workers_do_not_change_the_validation(small_recipe) -> None:
    found = []
    for workers in (0, 2):
        config = small_recipe("model.num_classes=7", f"data.num_workers={workers}")
        data = load_dataset("synthetic", root=config.data.root, split="val")
        trainer = Trainer(config, data.classes, DistributedContext.initialize())
        done: list[int] = []

        def count(number: int, total: int, done: list[int] = done) -> bool:
            done.append(number)
            return True

        found.append(validate(trainer, data, count))
        assert done[-1] == len(data) and trainer.model.training
    assert found[0] == found[1] and found[0] and found[0][1] == "ap"


def test_validation_names_an_image_whose_map_has_another_size(small_recipe, tmp_path: Path) -> None:
    folder = tmp_path / "own" / "val"
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    Image.new("L", (32, 32), 1).save(folder / "map.png")
    line = {"file_name": "a.png", "annotation_file_name": "map.png"}
    (folder / "metadata.jsonl").write_text(json.dumps(line))
    data = load_dataset(str(tmp_path / "own"))
    trainer = Trainer(
        small_recipe("model.num_classes=1"), data.classes, DistributedContext.initialize()
    )
    with pytest.raises(DataProblem, match=r"val/a\.png: is 64 x 64 .* lists it as 32 x 32"):
        validate(trainer, data, lambda done, total: True)


def test_a_stop_of_one_process_ends_the_evaluation_of_all(small_recipe, tmp_path: Path) -> None:
    recipe = small_recipe("model.num_classes=7").model_dump_json()
    printed = torchrun(tmp_path, 2, stop_rank_1, recipe)
    assert sorted(printed.splitlines()) == [f"rank {k} of 2: None, True" for k in range(2)]
