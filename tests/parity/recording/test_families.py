"""Recordings of every family equal the values that the model computes, and do not change them."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from mpdiag.errors import RecordingError
from mpdiag.recording import family_of, record


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def tensors(output: Any) -> list[Tensor]:
    """Return all tensors of a transformers output, in order."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if hasattr(output, "values") else output
    return [x for value in values if value is not None for x in tensors(value)]


def test_outputs_are_bit_equal_and_hooks_are_removed(tiny: Any, family: str) -> None:
    before = hooks(tiny.model)
    plain = tiny.run()
    with record(tiny.model, only=["*"]) as recording:
        assert hooks(tiny.model) > before
        hooked = tiny.run()
    assert hooks(tiny.model) == before
    for one, other in zip(tensors(plain), tensors(hooked), strict=True):
        assert torch.equal(one, other)
    assert recording.family == family_of(tiny.model).name == family.removesuffix(" DINOv3")
    with pytest.raises(ZeroDivisionError), record(tiny.model):
        raise ZeroDivisionError
    assert hooks(tiny.model) == before


def test_a_training_step_is_not_changed(tiny: Any) -> None:
    """Random numbers, buffers and training mode are as without the recorder."""
    before = copy.deepcopy(tiny.model.train())
    torch.manual_seed(5)
    plain = before(**tiny.inputs)
    with record(tiny.model, only=["*"]):
        torch.manual_seed(5)
        hooked = tiny.model(**tiny.inputs)
    after = torch.rand(1)
    for one, other in zip(tensors(plain), tensors(hooked), strict=True):
        assert torch.equal(one, other)
    for name, one in before.state_dict().items():
        assert torch.equal(one, tiny.model.state_dict()[name]), name
    assert all(module.training for module in tiny.model.modules())
    torch.manual_seed(5)
    before(**tiny.inputs)
    assert torch.equal(after, torch.rand(1))


def test_every_layer_equals_the_output_without_later_layers(tiny: Any) -> None:
    with record(tiny.model, only=["*_logits"]) as recording:
        tiny.run()
    count = len(recording.mask_logits)
    assert len(recording.class_logits) == count
    for layer in range(tiny.first, count):
        shorter = copy.deepcopy(tiny)
        shorter.truncate(shorter.model, layer)
        output = shorter.run()
        assert torch.equal(recording.mask_logits[layer], output[tiny.masks]), layer
        classes = recording.class_logits[layer]
        if not tiny.no_object:
            assert not classes[..., -1].any()
            classes = classes[..., :-1]
        assert torch.equal(classes, output[tiny.classes]), layer
    # Layers and queries differ, so the equality above is meaningful.
    assert (recording.mask_logits[1:] != recording.mask_logits[:-1]).flatten(1).any(1).all()


def test_a_pass_of_fewer_layers_is_an_error(tiny: Any) -> None:
    """Layer drop, for example, skips layers."""
    with record(tiny.model, only=["mask_logits"]) as recording:
        tiny.run()
        tiny.truncate(tiny.model, 1)
        with pytest.raises(RecordingError, match="layers were skipped or repeated"):
            tiny.run()
        assert "mask_logits" not in recording


def test_notes_say_where_the_recorder_applied_the_heads(tiny: Any, family: str) -> None:
    predicts_in_all_layers = family in ("transformers Mask2Former", "transformers OneFormer")
    with record(tiny.model, only=["mask_logits"]) as recording:
        tiny.run()
    applied = any("the recorder applied the model's own" in note for note in recording.notes)
    assert applied is not predicts_in_all_layers
    assert all(note in repr(recording) for note in recording.notes)
