"""transformers' own modules from files alone: shards, old formats, and files of strangers."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mpdiag
from mpdiag.checkpoints.transformers_models import TransformersModel, load_transformers_model
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


def check_same(found: TransformersModel, module: Any) -> None:
    state = module.state_dict()
    assert found.module.state_dict().keys() == state.keys()
    for name, tensor in found.module.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert not found.module.training


def test_one_file_shards_and_the_old_format(directory: Path, module: Any) -> None:
    found = load_transformers_model(directory)
    check_same(found, module)
    assert found.labels is None  # LABEL_0 and so on are no names
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    module.save_pretrained(directory, max_shard_size="20KB")
    shards = sorted(directory.glob("model-*.safetensors"))
    assert len(shards) > 1
    check_same(load_transformers_model(directory), module)
    assert load_transformers_model(directory).sha256 != found.sha256
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=rf"{shards[0].name}: no such file, which model.s"):
        load_transformers_model(directory)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../../etc/model.safetensors"}}))
    with pytest.raises(CheckpointError, match=rf"{directory.name}/model.safetensors: no such"):
        load_transformers_model(directory)
    index.unlink()
    torch.save(state, directory / "pytorch_model.bin")
    check_same(load_transformers_model(directory), module)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must not be seen",)


def test_no_code_of_a_directory_is_run(
    directory: Path, module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "harm.py").write_text("raise SystemExit('this must not be seen')")
    settings = json.loads((directory / "config.json").read_text())
    settings["auto_map"] = {"AutoConfig": "harm.Config", "AutoModel": "harm.Model"}
    (directory / "config.json").write_text(json.dumps(settings))
    images = json.loads((directory / "preprocessor_config.json").read_text())
    images["auto_map"] = {"AutoImageProcessor": "harm.Processor"}
    (directory / "preprocessor_config.json").write_text(json.dumps(images))
    found = load_transformers_model(directory)
    check_same(found, module)
    assert type(found.processor).__module__.startswith("transformers.")
    (directory / "model.safetensors").unlink()
    for content in (pickle.dumps({"weight": Harmful()}), pickle.dumps(Harmful())):
        (directory / "pytorch_model.bin").write_bytes(content)
        with pytest.raises((UnsafeCheckpointError, CheckpointError), match=r"pytorch_model\.bin"):
            load_transformers_model(directory)
    torch.save({"weight": Harmful()}, directory / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpointError, match=r"pytorch_model\.bin: refused.*print"):
        load_transformers_model(directory)
    assert "must not be seen" not in capsys.readouterr().out


def test_a_model_to_record(directory: Path, module: Any) -> None:
    model = mpdiag.load_model(directory)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad(), mpdiag.record(model) as recording:
        model(pixel_values=pixels)
    with torch.no_grad():
        expected = module(pixel_values=pixels)
    assert torch.equal(recording.mask_logits[-1], expected.masks_queries_logits)
