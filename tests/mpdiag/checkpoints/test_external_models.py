"""Loading transformers modules: shards, old formats, and untrusted files."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mpdiag
from mpdiag.checkpoints.external_models import ExternalModel
from mpdiag.checkpoints.opening import open_model
from mpdiag.errors import CheckpointError, UnsafeCheckpointError

t = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def module() -> Any:
    torch.manual_seed(0)
    config = t.EomtConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        num_blocks=2,
        num_queries=4,
        num_register_tokens=1,
        num_labels=3,
    )
    return t.EomtForUniversalSegmentation(config).eval()


@pytest.fixture
def directory(tmp_path: Path, module: Any) -> Path:
    module.save_pretrained(tmp_path)
    t.EomtImageProcessor(size={"shortest_edge": 32, "longest_edge": 32}).save_pretrained(tmp_path)
    return tmp_path


def open_external(directory: Path) -> ExternalModel:
    model = open_model(directory)
    assert isinstance(model, ExternalModel)
    return model


def check_equal(found: ExternalModel, module: Any) -> None:
    state = module.state_dict()
    assert found.module.state_dict().keys() == state.keys()
    for name, tensor in found.module.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert not found.module.training


def test_single_file_shards_and_old_format(directory: Path, module: Any) -> None:
    found = open_external(directory)
    check_equal(found, module)
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    module.save_pretrained(directory, max_shard_size="20KB")
    shards = sorted(directory.glob("model-*.safetensors"))
    assert len(shards) > 1
    check_equal(open_external(directory), module)
    assert open_external(directory).sha256 != found.sha256
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=rf"{shards[0].name}: no such file, but model.s"):
        open_external(directory)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../../etc/model.safetensors"}}))
    with pytest.raises(CheckpointError, match=rf"{directory.name}/model.safetensors: no such"):
        open_external(directory)
    index.unlink()
    torch.save(state, directory / "pytorch_model.bin")
    check_equal(open_external(directory), module)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("must not be printed",)


def test_code_in_a_directory_is_not_run(
    directory: Path, module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "harm.py").write_text("raise SystemExit('must not be printed')")
    settings = json.loads((directory / "config.json").read_text())
    settings["auto_map"] = {"AutoConfig": "harm.Config", "AutoModel": "harm.Model"}
    (directory / "config.json").write_text(json.dumps(settings))
    images = json.loads((directory / "preprocessor_config.json").read_text())
    images["auto_map"] = {"AutoImageProcessor": "harm.Processor"}
    (directory / "preprocessor_config.json").write_text(json.dumps(images))
    found = open_external(directory)
    check_equal(found, module)
    assert type(found.processor).__module__.startswith("transformers.")
    (directory / "model.safetensors").unlink()
    for content in (pickle.dumps({"weight": Harmful()}), pickle.dumps(Harmful())):
        (directory / "pytorch_model.bin").write_bytes(content)
        with pytest.raises((UnsafeCheckpointError, CheckpointError), match=r"pytorch_model\.bin"):
            open_external(directory)
    torch.save({"weight": Harmful()}, directory / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpointError, match=r"pytorch_model\.bin: refused.*print"):
        open_external(directory)
    assert "must not be printed" not in capsys.readouterr().out


def test_a_subclass_is_a_model_of_its_family(directory: Path, module: Any) -> None:
    class Own(type(module)):  # type: ignore[misc]
        pass

    own = Own.from_pretrained(directory)
    found = open_model(own)
    assert isinstance(found, ExternalModel) and found.module is own
    assert type(found.processor).__name__.startswith("EomtImageProcessor")
    with pytest.raises(CheckpointError, match=r"Linear: is no Mask2Former of .*CustomModel"):
        open_model(torch.nn.Linear(2, 2))


def test_load_model_can_be_recorded(directory: Path, module: Any) -> None:
    model = mpdiag.load_model(directory)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad(), mpdiag.record(model) as recording:
        model(pixel_values=pixels)
    with torch.no_grad():
        expected = module(pixel_values=pixels)
    assert torch.equal(recording.mask_logits[-1], expected.masks_queries_logits)
