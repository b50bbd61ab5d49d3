"""MaskPiloting around transformers' models: outputs, saving, the Trainer, and edge cases."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mpdiag
from mpdiag.errors import CheckpointError, ConfigError, DataError, TrainingError
from mpdiag.integrations.transformers import MaskPiloting
from mpdiag.recording import record

from ...processes import torchrun
from .piloted_steps import (
    BATCHES,
    SIZE,
    batch_of,
    build_mask2former,
    save_piloted_steps,
    take_piloted_steps,
)

transformers = pytest.importorskip("transformers")


@pytest.fixture
def model() -> Any:
    return build_mask2former()


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
    model.zero_grad()
    return found


def flatten(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [x for value in values if value is not None for x in flatten(value)]


class Repeated(torch.utils.data.Dataset[Any]):
    """Four images, with their batch dimension removed."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: value[0] for key, value in batch_of(index).items()}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    return {**batch, "pixel_values": torch.stack(batch["pixel_values"])}


def trainer_of(model: Any, output: Path, piloting: MaskPiloting, **settings: Any) -> Any:
    arguments = transformers.TrainingArguments(
        str(output),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    return transformers.Trainer(
        model, arguments, collate, Repeated(), callbacks=[piloting.callback()]
    )


def test_outputs_without_piloting_are_bit_equal(model: Any) -> None:
    settings = {"output_hidden_states": True, "output_auxiliary_logits": True}
    settings["output_attentions"] = True
    untouched = copy.deepcopy(model)
    piloting = MaskPiloting(model)
    for prepare in (lambda: model.eval(), lambda: (piloting.detach(), model.train())):
        prepare()
        untouched.train(model.training)
        torch.manual_seed(0)
        found = model(**batch_of(2, 1), **settings)
        torch.manual_seed(0)
        expected = untouched(**batch_of(2, 1), **settings)
        pairs = list(zip(flatten(found), flatten(expected), strict=True))
        assert len(pairs) > 20 and all(torch.equal(*pair) for pair in pairs)
    assert model.state_dict().keys() == untouched.state_dict().keys()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_outputs_in_training_have_the_shapes_and_values_of_the_matching_part(model: Any) -> None:
    settings = {"output_hidden_states": True, "output_auxiliary_logits": True}
    settings["output_attentions"] = True
    untouched = copy.deepcopy(model)
    piloting = MaskPiloting(model, queries=9)
    found = flatten(model(**batch_of(3, 2), **settings))[1:]  # without the loss of random points
    expected = flatten(untouched(**batch_of(3, 2), **settings))[1:]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert piloting.loss() > 0


def test_a_recording_in_training_has_the_matching_part(model: Any) -> None:
    untouched = copy.deepcopy(model)
    with record(untouched) as expected:
        untouched(**batch_of(3))
    piloting = MaskPiloting(model, queries=9)
    with record(model) as found:
        model(**batch_of(3))
    piloting.loss()
    for name in ("query", "class_logits", "mask_logits", "attention_mask"):
        pair = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)


def test_save_pretrained_writes_a_model_for_transformers_alone(model: Any, tmp_path: Path) -> None:
    untouched = copy.deepcopy(model)
    piloting = MaskPiloting(model)
    model.save_pretrained(tmp_path / "saved")
    loaded, report = type(model).from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values())
    assert loaded.state_dict().keys() == untouched.state_dict().keys()
    assert mpdiag.load_model(tmp_path / "saved").config.num_queries == 6

    again = MaskPiloting(loaded)
    assert not torch.equal(again.class_embeddings.weight, piloting.class_embeddings.weight)
    again.load(tmp_path / "saved")
    assert torch.equal(again.class_embeddings.weight, piloting.class_embeddings.weight)
    (tmp_path / "saved" / "mask_piloting.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"mask_piloting.safetensors: no readable class"):
        again.load(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="no readable class embeddings"):
        again.load(tmp_path)


def test_embeddings_of_other_classes_are_an_error(model: Any, tmp_path: Path) -> None:
    other = copy.deepcopy(model)
    other.config.num_labels = 4
    MaskPiloting(other).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"of shape \(4, 32\), but the model has \(3, 32\)"):
        MaskPiloting(model).load(tmp_path)


def test_the_trainer_trains_saves_and_resumes_class_embeddings(model: Any, tmp_path: Path) -> None:
    start = copy.deepcopy(model)
    piloting = MaskPiloting(model, queries=4)
    first = piloting.class_embeddings.weight.detach().clone()
    settings = {"save_steps": 1, "logging_steps": 1, "learning_rate": 0.01, "max_grad_norm": 0.0}
    trainer_of(model, tmp_path, piloting, max_steps=2, **settings).train()
    assert not torch.equal(piloting.class_embeddings.weight, first)
    assert piloting.losses.keys() == {
        f"loss_{term}_dn{layer}" for term in ("ce", "mask", "dice") for layer in ("_0", "_1", "")
    }
    type(model).from_pretrained(tmp_path / "checkpoint-2")

    resumed = MaskPiloting(start, queries=4)
    trainer = trainer_of(start, tmp_path, resumed, max_steps=2, **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    for name, value in model.state_dict().items():
        assert torch.equal(start.state_dict()[name], value), name


def test_accumulated_gradients_are_the_mean_of_those_of_the_parts(model: Any) -> None:
    piloting = MaskPiloting(model, noise="none", label_noise=0.0)
    parts = []
    for batch in (batch_of(2), batch_of(3)):
        torch.manual_seed(len(parts))
        (model(**batch).loss + piloting.loss()).backward()
        parts.append(gradients(model))
    for number, batch in enumerate((batch_of(2), batch_of(3))):
        torch.manual_seed(number)
        ((model(**batch).loss + piloting.loss()) / 2).backward()
    for name, gradient in gradients(model).items():
        expected = (parts[0][name] + parts[1][name]) / 2
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    torchrun(tmp_path / "streams", 2, save_piloted_steps, tmp_path / "out.pt")
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    expected = take_piloted_steps([0, 1])
    assert len(found) == len(BATCHES)
    for step, gradient in enumerate(expected):
        assert found[step].keys() == gradient.keys()
        for name, value in gradient.items():
            error = (found[step][name] - value).norm()
            assert error <= 1e-4 * value.norm() + 1e-6, (step, name)
    assert expected[1]["mask_piloting.weight"].norm() > 1e-3


def test_checkpointed_gradients_equal_those_without_checkpointing(model: Any) -> None:
    piloting = MaskPiloting(model, queries=9)

    def step() -> dict[str, Tensor]:
        torch.manual_seed(0)
        (model(**batch_of(3, 1)).loss + piloting.loss()).backward()
        return gradients(model)

    expected = step()
    model._set_gradient_checkpointing(True, _checkpoint)
    layers = model.model.transformer_module.decoder.layers
    assert all(layer.gradient_checkpointing for layer in layers)
    for name, gradient in step().items():
        assert torch.equal(gradient, expected[name]), name

    earlier = model(**batch_of(3, 1)).loss
    model(**batch_of(3, 2))
    with pytest.raises(TrainingError, match="call backward after each forward pass"):
        earlier.backward()


def _checkpoint(function: Any, *args: Any) -> Any:
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)


def test_bf16(model: Any) -> None:
    piloting = MaskPiloting(model)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch_of(2, 1))
        loss = piloting.loss()
    assert loss.dtype == torch.float32
    (output.loss + loss).backward()
    assert all(x.grad is None or x.grad.isfinite().all() for x in model.parameters())
    assert piloting.class_embeddings.weight.grad.norm() > 0


def test_images_without_objects(model: Any) -> None:
    piloting = MaskPiloting(model)
    model(**batch_of(0, 2))
    assert piloting.loss() > 0
    output = model(**batch_of(0, 0))
    assert output.masks_queries_logits.shape == (2, 6, 16, 24)
    loss = piloting.loss()
    (output.loss + loss).backward()
    assert loss == 0 and piloting.losses == {}
    assert torch.count_nonzero(piloting.class_embeddings.weight.grad) == 0


def test_more_objects_than_queries(model: Any) -> None:
    piloting = MaskPiloting(model, queries=2)
    model(**batch_of(4, 1))
    assert piloting._pass.pilot.gt.shape == (2, 2)  # 2 of 4 objects, and 2 groups of 1
    assert piloting.loss() > 0


def test_padding_labels_are_left_out(model: Any) -> None:
    batch = batch_of(2, 1)
    padded = copy.deepcopy(batch)
    padded["mask_labels"][1] = torch.cat([batch["mask_labels"][1], torch.zeros(1, *SIZE)])
    padded["class_labels"][1] = torch.tensor([0, 3])
    piloting = MaskPiloting(model, queries=4)
    targets = []
    for inputs in (batch, padded):
        model(**inputs)
        targets.append(piloting._pass.targets)
    for a, b in zip(*targets, strict=True):
        assert torch.equal(a["labels"], b["labels"]) and torch.equal(a["masks"], b["masks"])
    for label in (-100, 255):
        padded["class_labels"][1][1] = label
        with pytest.raises(
            DataError, match=f"image 1 .*: label {label} is not a class of the model"
        ):
            model(**padded)
    padded["class_labels"][1] = torch.tensor([0])
    with pytest.raises(
        DataError, match=r"image 1 of the batch: labels of shape \(1,\), but masks of "
    ):
        model(**padded)


def test_masks_of_different_size_are_padded_like_those_of_the_model_loss(model: Any) -> None:
    batch = batch_of(2, 1)
    batch["mask_labels"][1] = batch["mask_labels"][1][:, :50, :61]
    piloting = MaskPiloting(model)
    model(**batch)
    masks = piloting._pass.targets[1]["masks"]
    assert masks.shape == (1, *SIZE) and masks.sum() == batch["mask_labels"][1].sum()


def test_unsupported_models_and_arguments_are_errors(model: Any) -> None:
    with pytest.raises(ConfigError, match="MaskPiloting: noise = 'blur'"):
        MaskPiloting(model, noise="blur")
    with pytest.raises(TrainingError, match="Linear: MaskPiloting supports"):
        MaskPiloting(torch.nn.Linear(2, 2))
    with pytest.raises(TrainingError, match=r"the model: MaskPiloting .* compiled code"):
        MaskPiloting(torch.compile(model, backend="eager"))
    piloting = MaskPiloting(model)
    with pytest.raises(TrainingError, match="has mask piloting already"):
        MaskPiloting(model)
    with pytest.raises(TrainingError, match="no forward pass in training mode and with labels"):
        piloting.loss()


def test_a_model_that_is_compiled_later_is_an_error(model: Any) -> None:
    MaskPiloting(model)
    with pytest.raises(TrainingError, match=r"torch\.compile: MaskPiloting changes"):
        torch.compile(model, backend="eager")(**batch_of(1))


def test_a_compiling_trainer_and_a_second_loss_are_errors(model: Any, tmp_path: Path) -> None:
    piloting = MaskPiloting(model)
    trainer = trainer_of(model, tmp_path, piloting, max_steps=1, save_strategy="no")
    trainer.train()
    state, control, callback = transformers.TrainerState(), trainer.control, piloting.callback()
    callback.on_train_begin(trainer.args, state, control, model=model)
    model(**batch_of(1))
    with pytest.raises(TrainingError, match="has added it to the model's loss already"):
        piloting.loss()
    # The Trainer has no event for a training that is interrupted.
    piloting.callback()
    model(**batch_of(1))
    assert piloting.loss() > 0
    with pytest.raises(TrainingError, match="the Trainer trains another model"):
        callback.on_train_begin(trainer.args, state, control, model=copy.deepcopy(model))
    trainer.args.torch_compile = True
    with pytest.raises(TrainingError, match="torch_compile=True: MaskPiloting"):
        callback.on_train_begin(trainer.args, state, control, model=model)


def test_a_copy_of_the_model_has_its_own_piloting(model: Any) -> None:
    piloting = MaskPiloting(model)
    copied = copy.deepcopy(model)
    copied(**batch_of(2))
    with pytest.raises(TrainingError, match="no forward pass"):
        piloting.loss()
    (pre_hook,) = copied._forward_pre_hooks.values()
    pre_hook.__self__.loss().backward()
    assert copied.mask_piloting.weight.grad.norm() > 0
    assert model.mask_piloting.weight.grad is None
    # Also between a pass and its loss, of which the copy has none.
    model(**batch_of(2))
    (pre_hook,) = copy.deepcopy(model)._forward_pre_hooks.values()
    with pytest.raises(TrainingError, match="no forward pass"):
        pre_hook.__self__.loss()
    assert piloting.loss() > 0


def test_layers_that_training_drops_are_an_error(model: Any) -> None:
    model.model.transformer_module.decoder.layerdrop = 0.5
    with pytest.raises(TrainingError, match=r"decoder.layerdrop = 0.5: skips decoder layers"):
        MaskPiloting(model)
