"""The callback and the metrics for transformers' Trainer, on a small Mask2Former."""

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mpdiag import LayerMonitor
from mpdiag.errors import ConfigError, NonFiniteError, RecordingError, RunError
from mpdiag.recording.uncopied_hook import UncopiedHook
from mpdiag.store.run import Run

from ...transformers_models import mask2former

t = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from mpdiag.integrations.transformers import (  # noqa: E402
    LayerDiagnosticsCallback,
    SegmentationMetrics,
)

LAYERS = 2


def small_model() -> Any:
    torch.manual_seed(0)
    return mask2former(decoder_layers=LAYERS + 1, train_num_points=64)


def example(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    count = 1 + seed % 2
    return {
        "pixel_values": torch.randn(3, 64, 64, generator=generator),
        "mask_labels": (torch.rand(count, 64, 64, generator=generator) > 0.5).float(),
        "class_labels": torch.randint(0, 3, (count,), generator=generator),
    }


def collate(examples: list[dict[str, Tensor]]) -> dict[str, Any]:
    batch: dict[str, Any] = {name: [one[name] for one in examples] for name in examples[0]}
    return batch | {"pixel_values": torch.stack(batch["pixel_values"])}


def trainer(model: Any, folder: Path, **settings: Any) -> Any:
    arguments = t.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        per_device_eval_batch_size=2,
        max_steps=2,
        logging_steps=1,
        save_strategy="no",
        remove_unused_columns=False,
        batch_eval_metrics=True,
        eval_do_concat_batches=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    data = [example(seed) for seed in range(4)]
    return t.Trainer(
        model,
        arguments,
        train_dataset=data,
        eval_dataset=data,
        data_collator=collate,
        compute_metrics=SegmentationMetrics(model),
    )


class TrainerOf:
    """What the callback reads of a trainer outside of a training."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.callback_handler = SimpleNamespace(eval_dataloader=None)


def hooks(model: Any) -> int:
    """Return the number of hooks of mpdiag; transformers has some of its own."""
    found = [
        y
        for x in model.modules()
        for y in (*x._forward_hooks.values(), *x._forward_pre_hooks.values())
    ]
    return sum(isinstance(hook, UncopiedHook) for hook in found)


def logged(trained: Any, step: int, name: str) -> list[float]:
    """Return the values of NAME/LAYER that were logged at a step, in the order of the layers."""
    found = [entry for entry in trained.state.log_history if entry["step"] == step]
    values = {key: value for entry in found for key, value in entry.items()}
    layers = (f"{name}/{layer}" for layer in range(LAYERS + 1))
    return [values[key] for key in layers if key in values]


def test_trainer_logs_layers_of_training_and_evaluation(tmp_path: Path) -> None:
    model = small_model()
    used = trainer(
        model,
        tmp_path / "output",
        gradient_accumulation_steps=2,
        bf16=True,
        eval_strategy="steps",
        eval_steps=2,
        average_tokens_across_devices=False,
    )
    used.add_callback(LayerDiagnosticsCallback(used, every=2, eval_images=2, run=tmp_path / "run"))
    passes: list[float] = []
    model.register_forward_hook(
        lambda module, inputs, output: (
            passes.append(float(output.loss.detach())) if module.training else None
        )
    )
    used.train()
    assert logged(used, 1, "miou_l") == []
    assert len(logged(used, 2, "miou_l")) == LAYERS
    assert len(logged(used, 2, "util")) == LAYERS + 1
    assert logged(used, 2, "util")[-1] == 1
    assert len(logged(used, 2, "eval_miou_l")) == LAYERS
    # The layers' losses, weighted, are the loss of the model, averaged over its two passes.
    weights = {"loss_cross_entropy": 2, "loss_mask": 5, "loss_dice": 5}
    total = sum(weight * sum(logged(used, 2, name)) for name, weight in weights.items())
    assert total == pytest.approx((passes[2] + passes[3]) / 2, rel=1e-2)
    # The run directory holds the first batch of the evaluation.
    assert logged(used, 2, "eval_loss_mask")[-1] == pytest.approx(0.69, abs=0.02)  # ln 2
    run = Run.open(tmp_path / "run")
    assert run.summary["num_images"] == 2
    layer = run.summary["layers"][-1]
    assert logged(used, 2, "eval_miou_l")[-1] == pytest.approx(layer["miou_l"], abs=1e-12)
    assert any("eval_ap" in entry for entry in used.state.log_history)
    callback = used.callback_handler.callbacks[-1]  # a finished training may be resumed
    callback.on_train_begin(used.args, used.state, used.control, model=model)
    with pytest.raises(RunError, match="run: exists, but a new run is to be written"):
        used.train()


def test_evaluation_values_are_those_of_its_own_images(tmp_path: Path) -> None:
    model = small_model()
    used = trainer(model, tmp_path / "output", prediction_loss_only=True)
    callback = LayerDiagnosticsCallback(used, eval_images=4, run=tmp_path / "run")
    used.add_callback(callback)
    own, other = used.eval_dataset[:2], [example(seed) for seed in range(7, 10)]

    def evaluated(data: Any, name: str = "eval_miou_l") -> list[float]:
        used.evaluate(data)
        found = [entry for entry in used.state.log_history if f"{name}/1" in entry]
        return [found[-1][f"{name}/{layer}"] for layer in range(1, LAYERS + 1)]

    expected, different = evaluated(own), evaluated(other)
    assert expected != different
    used.predict(other)
    assert evaluated(own) == expected
    model.eval()(**collate(other))  # a pass of the user
    assert evaluated(own) == expected
    with pytest.raises(KeyError, match="pixel_values"):  # an evaluation that fails
        used.evaluate([*other, {"mask_labels": 0}])
    assert evaluated(own) == expected
    # A pass without GT after the evaluation does not change what is written.
    model.eval()(pixel_values=collate(other)["pixel_values"])
    assert callback.monitor is not None
    assert callback.monitor.write_run(tmp_path / "run")["num_images"] == 2
    # The Trainer names its metrics by the data set, too.
    used.state.log_history.clear()
    assert evaluated({"a": own, "b": other}, "eval_b_miou_l") == different
    assert not any("eval_miou_l/1" in entry for entry in used.state.log_history)


def test_passes_after_the_training_are_not_measured_except_in_evaluations(tmp_path: Path) -> None:
    model = small_model()
    used = trainer(model, tmp_path)
    callback = LayerDiagnosticsCallback(used, every=1)
    used.add_callback(callback)
    used.train()
    before = hooks(model)
    model.train()(pixel_values=torch.zeros(1, 3, 64, 64))  # for example in another training
    assert callback.monitor is not None and not callback.monitor.is_pending
    used.evaluate()
    assert len(logged(used, 2, "eval_miou_l")) == LAYERS
    assert hooks(model) == before
    # The trainer is free as soon as nobody else uses it, and the next pass removes the hooks.
    reference = weakref.ref(used)
    del used
    gc.collect()
    assert reference() is None
    model(pixel_values=torch.zeros(1, 3, 64, 64))
    assert before and hooks(model) == 0


def test_a_model_is_measured_by_the_last_callback() -> None:
    model, first, second = small_model(), TrainerOf(None), TrainerOf(None)
    first.model = second.model = model
    old = LayerDiagnosticsCallback(first)
    before = hooks(model)
    new = LayerDiagnosticsCallback(second)
    assert hooks(model) == before and old.monitor is None and new.monitor is not None
    new.close()
    assert hooks(model) == 0


def test_matcher_of_any_step_names_the_prediction_that_is_not_finite() -> None:
    model = small_model().train()
    owner = TrainerOf(model)
    LayerDiagnosticsCallback(owner, every=50)
    inputs = collate([example(0), example(1)])
    model(**inputs)
    handle = model.class_predictor.register_forward_hook(spoil_second_layer())
    with pytest.raises(
        NonFiniteError,
        match=r"class prediction \(2 of 5 queries\) of layer 1, image 1 of the batch",
    ):
        model(**inputs)
    handle.remove()


def test_the_layer_of_a_model_with_one_call_of_the_criterion_per_layer() -> None:
    torch.manual_seed(0)
    config = t.EomtConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        num_blocks=2,
        num_queries=5,
        num_upscale_blocks=1,
        train_num_points=64,
        id2label={index: str(index) for index in range(3)},
    )
    model = t.EomtForUniversalSegmentation(config).train()
    monitor = LayerMonitor(model, every=50)
    inputs = collate([example(0), example(1)])
    for _ in range(2):
        handle = model.class_predictor.register_forward_hook(spoil_second_layer())
        with pytest.raises(NonFiniteError, match=r"2 of 5 queries\) of layer 1, image 1 of the"):
            model(**inputs)
        handle.remove()
    monitor.close()


def spoil_second_layer() -> Any:
    calls: list[int] = []

    def spoil(module: Any, inputs: Any, output: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) != 2:
            return output
        spoiled = output.clone()
        spoiled[1, 2:4, 0] = torch.inf
        return spoiled

    return spoil


def test_compiled_and_replicated_models_are_refused() -> None:
    model = small_model()
    callback = LayerDiagnosticsCallback(TrainerOf(model))
    arguments: Any = SimpleNamespace(torch_compile=True, n_gpu=1)
    state: Any = SimpleNamespace(global_step=0)
    with pytest.raises(RecordingError, match="torch_compile: "):
        callback.on_train_begin(arguments, state, state, model=model)
    arguments = SimpleNamespace(torch_compile=False, n_gpu=2)
    with pytest.raises(ConfigError, match=r"2 GPUs in one process.*torchrun"):
        callback.on_train_begin(arguments, state, state, model=model)


def test_scores_of_two_batches_are_those_computed_by_hand() -> None:
    metrics = SegmentationMetrics(small_model())
    truth = torch.zeros(1, 32, 32)
    truth[:, 8:24, 8:24] = 1
    classes = torch.tensor([[[8.0, 0, 0, 0], [0, 0, 0, 8.0]]])
    found = torch.stack([truth * 20 - 10, -torch.ones(1, 32, 32)], 1)[:, :, ::4, ::4]
    missed = torch.full_like(found, -1)

    def batch(masks: Tensor) -> Any:
        return SimpleNamespace(
            predictions=(classes, masks, None),
            label_ids=([truth], [torch.zeros(1, dtype=torch.int64)]),
        )

    assert metrics(batch(found), compute_result=False) == {}
    scores = metrics(batch(missed), compute_result=True)
    # One of two GT is found: precision is 1 at recalls 0, 0.01 .. 0.5, and 0 above.
    assert scores["ap50"] == pytest.approx(51 / 101, abs=1e-6)
    assert metrics(batch(found))["ap50"] == pytest.approx(1)  # starts anew
    metrics(batch(missed), compute_result=False)  # of an evaluation that is interrupted
    metrics.reset()
    assert metrics(batch(found))["ap50"] == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 4])
def test_things_are_one_for_each_class(count: int) -> None:
    with pytest.raises(ConfigError, match=f"things has {count} values, but the model has 3 cl"):
        SegmentationMetrics(small_model(), "panoptic", [True] * count)


def test_scores_need_batches(tmp_path: Path) -> None:
    metrics = SegmentationMetrics(small_model(), "panoptic")
    joined = SimpleNamespace(predictions=([torch.zeros(1)],), label_ids=None)
    with pytest.raises(ConfigError, match="set batch_eval_metrics=True"):
        metrics(joined)
