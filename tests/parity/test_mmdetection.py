"""Checkpoints with the names of mmdetection, against the outputs of its own Mask2Former.

The outputs are written by tests/mmdetection/make_reference.py.
"""

import json
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mpdiag.checkpoints import load_checkpoint
from mpdiag.checkpoints.convert import convert
from mpdiag.errors import CheckpointError, UnsafeCheckpointError

from .conftest import CASES, parameter

NAMES = tuple(f"class {index}" for index in range(7))
META = {"dataset_meta": {"classes": NAMES, "palette": [(1, 2, 3)]}, "cfg": "model = dict()"}
Outputs = dict[str, Tensor]
BEFORE_VERSION_3 = (
    ("transformer_decoder.layers.{}.cross_attn.", "transformer_decoder.layers.{}.attentions.0."),
    ("transformer_decoder.layers.{}.self_attn.", "transformer_decoder.layers.{}.attentions.1."),
    ("pixel_decoder.encoder.layers.{}.self_attn.", "pixel_decoder.encoder.layers.{}.attentions.0."),
    ("transformer_decoder.layers.{}.ffn.", "transformer_decoder.layers.{}.ffns.0."),
    ("pixel_decoder.encoder.layers.{}.ffn.", "pixel_decoder.encoder.layers.{}.ffns.0."),
)


def in_version_3(name: str) -> str:
    return name


def before_version_3(name: str) -> str:
    for layer in range(4):
        for new, old in BEFORE_VERSION_3:
            name = name.replace(new.format(layer), old.format(layer))
    return name


def in_mmsegmentation(name: str) -> str:
    return name.replace("panoptic_head.", "decode_head.")


@pytest.fixture(scope="module")
def outputs() -> Outputs:
    return load_file(CASES / "mmdetection.safetensors")


@pytest.fixture(params=["r50", "swin"])
def backbone(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def state(backbone: str, outputs: Outputs) -> Outputs:
    """The state dict of the model of the reference."""
    shapes = json.loads((CASES / "mmdetection.json").read_text())[backbone]

    def values(name: str) -> Tensor:
        if name.endswith("relative_position_index"):
            return outputs["relative_position_index"]
        if name.endswith("num_batches_tracked"):
            return torch.tensor(0)
        return parameter(name, tuple(shapes[name]), 0)

    return {name: values(name) for name in shapes}


@pytest.mark.parametrize("rename", [in_version_3, before_version_3, in_mmsegmentation])
def test_all_layers_predict_what_mmdetection_predicts(
    backbone: str,
    state: Outputs,
    outputs: Outputs,
    rename: Callable[[str], str],
    tmp_path: Path,
) -> None:
    renamed = {rename(name): values for name, values in state.items()}
    assert rename is in_version_3 or renamed.keys() != state.keys()
    torch.save({"meta": META, "state_dict": renamed}, tmp_path / "a.pth")
    loaded = load_checkpoint(tmp_path / "a.pth")
    with torch.no_grad():
        found = loaded.model([outputs["image"]]).matching
    for kind in ("class_logits", "mask_logits"):
        expected = outputs[f"{backbone}.{kind}"]
        torch.testing.assert_close(getattr(found, kind), expected, rtol=1e-4, atol=1e-4)


def test_it_converts_to_the_official_names(
    state: Outputs, outputs: Outputs, tmp_path: Path
) -> None:
    torch.save({"meta": META, "state_dict": state}, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.pth", "detectron2")
    models = [load_checkpoint(tmp_path / name).model for name in ("a.pth", "b.pth")]
    with torch.no_grad():
        first, second = (model([outputs["image"]]).matching for model in models)
    assert torch.equal(first.mask_logits, second.mask_logits)
    assert load_checkpoint(tmp_path / "b.pth").labels == list(NAMES)


@pytest.mark.parametrize(
    ("meta", "labels"),
    [
        (META, list(NAMES)),
        ({"CLASSES": NAMES}, list(NAMES)),  # before version 3
        ({"dataset_meta": {"classes": ("of", "COCO")}}, None),
        ({"dataset_meta": {"classes": [1] * 7}}, None),
        ({"dataset_meta": "gone"}, None),
        (5, None),
    ],
)
def test_class_names_are_those_of_the_file_if_they_fit(
    meta: object, labels: object, state: Outputs, tmp_path: Path
) -> None:
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth").labels == labels


class HistoryBuffer:
    """As in mmengine: numbers of the log, and functions that reduce them."""

    def __init__(self) -> None:
        self.log = [0.5, 0.25]
        self.methods = {"min": HistoryBuffer.smallest, "bound": self.smallest}

    def smallest(self) -> float:
        return min(self.log)


@pytest.fixture
def mmengine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    name = "mmengine.logging.history_buffer"
    for module in ("mmengine", "mmengine.logging", name):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    monkeypatch.setattr(sys.modules[name], "HistoryBuffer", HistoryBuffer, raising=False)
    for one in (HistoryBuffer, HistoryBuffer.smallest):
        monkeypatch.setattr(one, "__module__", name)
    yield


@pytest.mark.usefixtures("mmengine")
def test_the_log_in_a_checkpoint_of_a_training_is_left_out(
    state: Outputs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = {"message_hub": {"log_scalars": {"loss": HistoryBuffer()}}, "state_dict": state}
    torch.save(content, tmp_path / "epoch_1.pth")
    monkeypatch.undo()  # the class is not importable
    load_checkpoint(tmp_path / "epoch_1.pth")


class Attribute:
    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __reduce__(self) -> tuple[Any, tuple[Any, str]]:
        return getattr, (self.owner, "append")


class Other:
    """An object that is made by the same operation as a log."""


@pytest.mark.parametrize("content", [Attribute([]), Attribute(print), Other()])
def test_no_other_object_or_attribute_is_made(content: object, tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    file.write_bytes(pickle.dumps({"state_dict": {}, "log": content}, protocol=2))
    with pytest.raises(UnsafeCheckpointError, match=r"getattr|print|Other"):
        load_checkpoint(file)


@pytest.mark.parametrize("shape", [(), (7,), (2, 6)])
def test_an_entry_of_another_shape_is_an_error(
    shape: tuple[int, ...], state: Outputs, tmp_path: Path
) -> None:
    name = next((x for x in state if x.endswith("downsample.norm.weight")), "backbone.conv1.weight")
    torch.save({"state_dict": state | {name: torch.ones(shape)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "a.pth")


def test_another_model_of_mmdetection_is_an_error(tmp_path: Path) -> None:
    state = {"panoptic_head.cls_embed.weight": torch.ones(8, 4)}  # of MaskFormer
    torch.save({"meta": META, "state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of Mask2Former"):
        load_checkpoint(tmp_path / "a.pth")
