"""Checkpoints with invalid contents: errors of one line, little memory, no network, no folder."""

import json
import os
import socket
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mpdiag.checkpoints.loading
from mpdiag.checkpoints import load_checkpoint, save_checkpoint
from mpdiag.checkpoints.describe import describe
from mpdiag.checkpoints.official_keys import to_official
from mpdiag.checkpoints.opening import open_model
from mpdiag.checkpoints.transformers_directory import write_transformers
from mpdiag.config import BackboneConfig, ModelConfig, TrainConfig
from mpdiag.errors import CheckpointError, MpdiagError
from mpdiag.models import Mask2Former
from mpdiag.untrusted import MAX_DEPTH

pytestmark = pytest.mark.usefixtures("one_gib", "no_network")

HEAD = "decoder.class_embed.weight"
QUERIES = "decoder.query_feat.weight"
OFFSETS = "pixel_decoder.layers.0.self_attn.sampling_offsets.bias"
LINEAR = "pixel_decoder.layers.0.linear1.weight"
HUGE = torch.zeros(1).expand(10**9)
YAML_BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
YAML_MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 30)
)
YAML_TEXT_BOMB = f"a: &a {'x' * 100_000}\nMODEL: {{META_ARCHITECTURE: [{'*a, ' * 9000}]}}"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


@pytest.fixture(scope="module")
def model(small_config: ModelConfig) -> Mask2Former:
    torch.manual_seed(0)
    return Mask2Former(small_config).eval()


@pytest.fixture(scope="module")
def swin(small_config: ModelConfig) -> Mask2Former:
    backbone = BackboneConfig(
        name="swin", embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=3
    )
    return Mask2Former(small_config.model_copy(update={"backbone": backbone})).eval()


@pytest.fixture
def directory(tmp_path: Path, small_config: ModelConfig) -> Path:
    """A directory of transformers, which it writes without class embeddings."""
    (tmp_path / "there").mkdir()
    config = small_config.model_copy(update={"label_embedding": False})
    write_transformers(tmp_path / "there", Mask2Former(config))
    return tmp_path / "there"


def refused(path: Path, *readers: Callable[[Path], object]) -> str:
    """Check that reading a checkpoint ends in an error of one line, and return it."""
    for read in readers or (load_checkpoint, describe):
        started = time.process_time()
        with pytest.raises(MpdiagError) as caught:
            read(path)
        assert time.process_time() - started < 5
        message = str(caught.value)
        assert message and "\n" not in message and len(message) < 1500
        assert "memory" not in message.lower()
    return message


def write_state(path: Path, model: Mask2Former, **changes: Tensor | None) -> Path:
    """Write a model's state dict with changed entries; None removes one."""
    state = {**model.state_dict(), **{k.replace("__", "."): x for k, x in changes.items()}}
    torch.save({to_official(k): x for k, x in state.items() if x is not None}, path)
    return path


TENSORS = [
    torch.tensor(1.0),
    torch.zeros(0),
    torch.zeros(0, 10**9),
    torch.zeros(1),
    torch.zeros(2, 2, 2, 2),
    torch.zeros(1, 32),
    HUGE,
    HUGE[:, None],
    HUGE[None].expand(1, -1),
    torch.zeros(1, 1).expand(3000, 3000),
    torch.ones(2, 2, dtype=torch.complex64),
]
OTHER_WEIGHTS = (OFFSETS, LINEAR, "backbone.conv1.weight", "pixel_decoder.level_embed")


# Sizes of the model are read from HEAD and QUERIES. Of the other weights, each gets a third of the
# tensors, and each tensor is that of at least one.
@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        *product((HEAD, QUERIES), TENSORS),
        *((name, x) for k, name in enumerate(OTHER_WEIGHTS) for x in TENSORS[k % 3 :: 3]),
    ],
)
def test_shapes(tmp_path: Path, model: Mask2Former, name: str, tensor: Tensor) -> None:
    refused(write_state(tmp_path / "model.pth", model, **{name: tensor}))


def test_shapes_of_a_swin(tmp_path: Path, swin: Mask2Former) -> None:
    table = "backbone.stages.{}.blocks.0.attn.relative_position_bias_table"
    load_checkpoint(write_state(tmp_path / "model.pth", swin))
    for name in (table.format(0), table.format(3), "backbone.patch_embed.proj.weight"):
        for tensor in (torch.tensor(1.0), torch.zeros(5), torch.zeros(1, 1), HUGE[:, None], None):
            refused(write_state(tmp_path / "model.pth", swin, **{name: tensor}))
    wide = {
        table.format(stage): torch.zeros(199**2, heads) for stage, heads in enumerate((1, 1, 2, 2))
    }
    assert "window_size = 100" in refused(write_state(tmp_path / "model.pth", swin, **wide))


def test_thousands_of_layers(tmp_path: Path, model: Mask2Former) -> None:
    layers = {f"decoder.layers.{k}.linear1.bias": torch.zeros(1) for k in range(300)}
    message = refused(write_state(tmp_path / "model.pth", model, **layers))
    assert "decoder_layers = 300" in message
    blocks = {f"backbone.layer1.{k}.conv1.weight": torch.zeros(1) for k in range(300)}
    assert "unknown backbone" in refused(write_state(tmp_path / "model.pth", model, **blocks))
    many = {f"decoder.layers.{k}.linear1.bias": torch.zeros(1) for k in range(10_001)}
    save_file(many, tmp_path / "model.safetensors")
    assert "10,001 entries" in refused(tmp_path / "model.safetensors")


RECIPES: list[dict[str, Any]] = [
    *({"model": {"decoder_layers": value}} for value in (10**7, 0, -1, "x", None, 10**30, 1.5)),
    *({"model": {"num_queries": value}} for value in (10**9, 0, -1)),
    *({"model": {"num_classes": value}} for value in (0, 10**9)),
    *({"model": {"num_heads": value}} for value in (0, 7, -1, 10**9)),
    *({"model": {"hidden_dim": value}} for value in (0, 7, -32, 2**40)),
    {"model": {"encoder_points": 0}},
    {"model": {"pixel_std": [0, 0, 0]}},
    {"model": {"pixel_mean": [float("nan")] * 3}},
    {"model": {"backbone": {"name": "resnet18", "channels": [0, 0, 0, 0]}}},
    {"model": {"backbone": {"name": "resnet18", "channels": [7, 9, 11, 13]}}},
    {"model": {"backbone": {"name": "resnet18", "stem_channels": -5}}},
    {"model": {"backbone": {"name": "vit_giant_patch14_224"}}},
    {"model": {"backbone": {"name": "swin_tiny", "depths": [10**6, 2, 2, 2]}}},
    {"model": {"backbone": {"name": "swin_tiny", "window_size": 10**4}}},
    {"model": {"backbone": {"name": "swin_tiny", "num_heads": [0, 0, 0, 0]}}},
    {"model": []},
    {"data": {"short_side": "x"}},
    {"data": {"short_side": 10**6}},
    {"data": {"long_side": 0}},
    {"loss": {"num_points": 10**12}},
    {"loss": {"no_object_weight": float("inf")}},
]


def with_recipe(tmp_path: Path, model: Mask2Former, changes: Any, **extra: Any) -> Path:
    recipe = TrainConfig(model=model.config).model_dump(mode="json")
    for section, values in changes.items():
        recipe[section] = {**recipe[section], **values} if isinstance(values, dict) else values
    save_checkpoint(tmp_path / "model.pth", model, mpdiag={"recipe": recipe, **extra})
    return tmp_path / "model.pth"


@pytest.mark.parametrize("changes", RECIPES, ids=str)
def test_recipes_in_a_checkpoint(tmp_path: Path, model: Mask2Former, changes: Any) -> None:
    refused(with_recipe(tmp_path, model, changes))


@pytest.mark.parametrize(
    "name", ["hf-hub:evil/model", "hf_hub:evil/model", "local-dir:/etc", "timm/resnet18", "../x"]
)
def test_only_backbones_in_the_registry(tmp_path: Path, model: Mask2Former, name: str) -> None:
    for pretrained in (False, True):
        changes = {"model": {"backbone": {"name": name, "pretrained": pretrained}}}
        assert "unknown model" in refused(with_recipe(tmp_path, model, changes))


def test_a_checkpoint_never_asks_for_pretrained_weights(tmp_path: Path, model: Mask2Former) -> None:
    backbone = model.config.backbone.model_dump(mode="json") | {"pretrained": True}
    loaded = load_checkpoint(with_recipe(tmp_path, model, {"model": {"backbone": backbone}}))
    assert not loaded.model.config.backbone.pretrained


class_list = [{"category_id": 1, "name": "a", "isthing": True}]


@pytest.mark.parametrize(
    "own",
    [
        *("x", [], 3, torch.ones(3)),
        *({"classes": value} for value in (5, "abc", [5], [[]], [{}], [{"name": "a"}], {"a": 1})),
        {"classes": [{"category_id": "x", "name": "a"}]},
        {"classes": [{"category_id": 1, "name": 5}]},
        {"classes": [{"category_id": 1, "name": torch.ones(1)}]},
        *({"labels": value} for value in (5, [5], "abc", {"a": "b"})),
        *({"model": value} for value in (5, [], None, {"num_heads": 7}, {"x": torch.ones(1)})),
        *(
            {"recipe": value}
            for value in (5, [], None, {"model": 5}, {"data": {"short_side": "x"}})
        ),
    ],
    ids=str,
)
def test_metadata(tmp_path: Path, model: Mask2Former, own: Any) -> None:
    save_checkpoint(tmp_path / "model.pth", model, mpdiag=own)
    refused(tmp_path / "model.pth")


@pytest.mark.parametrize("side", ["x", 0, -1, 10**6, 1.5, True, [800]])
def test_image_sizes_of_a_converted_checkpoint(
    tmp_path: Path, model: Mask2Former, side: Any
) -> None:
    own = {"model": model.config.model_dump(mode="json"), "short_side": side}
    save_checkpoint(tmp_path / "model.pth", model, mpdiag=own)
    assert "short_side" in refused(tmp_path / "model.pth")


def test_other_entries(tmp_path: Path, model: Mask2Former) -> None:
    state = {to_official(name): tensor for name, tensor in model.state_dict().items()}
    for weight in (torch.zeros(0), torch.tensor(float("nan")), torch.ones(2) * 1j):
        torch.save({"model": {**state, "criterion.empty_weight": weight}}, tmp_path / "model.pth")
        refused(tmp_path / "model.pth")
    for mean in (torch.zeros(0), torch.ones(2), torch.tensor(1.0), torch.full((3,), float("inf"))):
        torch.save({"model": {**state, "pixel_mean": mean}}, tmp_path / "model.pth")
        refused(tmp_path / "model.pth")
    torch.save({"model": state, "iteration": 10**6000}, tmp_path / "model.pth")
    assert "64 bits" in refused(tmp_path / "model.pth")
    for content in ({}, {"model": {}}, {"model": 5}, {"model": {5: torch.ones(1)}}, [], 5, None):
        torch.save(content, tmp_path / "model.pth")
        refused(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "text",
    [
        YAML_BOMB,
        YAML_MERGE_BOMB,
        YAML_TEXT_BOMB,
        "MODEL: &a {X: *a}",
        "MODEL: {X: " + "[" * 5000,
        "MODEL: {X: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}",
        "MODEL: {PIXEL_MEAN: '" + "(" * 5000 + "'}",
        "MODEL: {PIXEL_MEAN: '" + "-" * 900 + "1'}",
        "MODEL: {PIXEL_MEAN: '0x" + "f" * 900 + "'}",
        "MODEL: {PIXEL_STD: [0, 0, 0]}",
        "MODEL: {MASK_FORMER: {NHEADS: 0}}",
        "MODEL: {MASK_FORMER: {NHEADS: 1" + "0" * 5000 + "}}",
        "MODEL: {MASK_FORMER: {CLASS_WEIGHT: .inf}}",
        "MODEL: {MASK_FORMER: {TRAIN_NUM_POINTS: 1000000000000}}",
        "MODEL: {MASK_FORMER: 5}\nINPUT: {MIN_SIZE_TEST: 1000000}",
        "MODEL: {}\nINPUT: {MIN_SIZE_TEST: x}",
        "MODEL: {}\nINPUT: {MIN_SIZE_TRAIN: !!python/object/apply:eval ['[int(x * "
        + "9" * 400
        + " * 5) for x in range(1, 2)]']}\nX: !!python/name:os.system 5",
        "MODEL: {}\n_BASE_: [/etc]",
        "MODEL: {}\n_BASE_: /dev/zero",
        "MODEL: {}\n_BASE_: config.yaml",
        "MODEL: {}\n_BASE_: https://example.org/x.yaml",
        "MODEL: {}\n? [a, b]\n: c",
        "MODEL: {X: !!int ''}",
    ],
    ids=range(23),
)
def test_yaml_beside_a_checkpoint(tmp_path: Path, model: Mask2Former, text: str) -> None:
    write_state(tmp_path / "model.pth", model)
    (tmp_path / "config.yaml").write_text(text)
    assert str(tmp_path) in refused(tmp_path / "model.pth")


def test_chains_of_yaml_files(tmp_path: Path, model: Mask2Former) -> None:
    write_state(tmp_path / "model.pth", model)
    for index in range(1000):
        bases = f"[{index + 1}.yaml, {index + 1}.yaml]"
        (tmp_path / f"{index}.yaml").write_text(f"MODEL: {{}}\n_BASE_: {bases}")
    (tmp_path / "config.yaml").write_text("MODEL: {}\n_BASE_: 0.yaml")
    assert "more than 32 files" in refused(tmp_path / "model.pth")
    (tmp_path / "20.yaml").write_text("MODEL: {}")
    load_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "name", ["model.pth", "model.safetensors", "config.yaml", "there/config.json"]
)
def test_named_pipes(tmp_path: Path, model: Mask2Former, directory: Path, name: str) -> None:
    write_state(tmp_path / "model.pth", model)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    path = {"config.yaml": tmp_path / "model.pth", "there/config.json": directory}
    refused(path.get(name, tmp_path / name), load_checkpoint, describe, open_model)


def deep(depth: int) -> str:
    return '{"model_type": "mask2former", "a": ' + "[" * depth + "]" * depth + "}"


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", "\ud800", deep(MAX_DEPTH), deep(100_000), '{"model_type": ["a"]}'),
        *("1" * 5000, '{"model_type": "\\ud800"}'),
        '{"model_type": "mask2former", "num_queries": 1' + "0" * 400 + "}",
    ],
    ids=range(10),
)  # fmt: skip
def test_json_of_a_transformers_directory(directory: Path, text: str) -> None:
    (directory / "config.json").write_bytes(text.encode(errors="surrogatepass"))
    refused(directory, load_checkpoint, describe, open_model)
    (directory / "config.json").write_text('{"model_type": "mask2former"}')
    (directory / "preprocessor_config.json").write_bytes(text.encode(errors="surrogatepass"))
    if "model_type" not in text or "0" * 400 in text or "ud800" in text or len(text) > 100:
        refused(directory)


@pytest.mark.parametrize(
    "changes",
    [
        *({key: value} for key in ("num_queries", "hidden_dim", "decoder_layers", "encoder_layers")
          for value in ("x", 0, -1, 10**9, [], {})),
        *({"backbone_config": value} for value in ({"depths": "x"}, {"hidden_sizes": [0]})),
        *({"class_weight": value} for value in ("x", [], 1e999)),
        {"id2label": {"0": 5}},
        {"id2label": {"x": "y"}},
        {"mpdiag": {"recipe": 5}},
        {"mpdiag": {"classes": 5}},
    ],
    ids=str,
)  # fmt: skip
def test_settings_of_a_transformers_directory(directory: Path, changes: dict[str, Any]) -> None:
    settings = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(settings | changes))
    refused(directory)


@pytest.mark.parametrize(
    "changes",
    [
        *({"size": {"shortest_edge": value}} for value in ("x", 0, 10**6, -1, [1])),
        *({"image_mean": value} for value in ("x", 5, [1, 2], [1, 2, 3, 4], [None] * 3, {"a": 1})),
        *({"image_std": [1, 1, 1], "rescale_factor": value} for value in (0, "x", [], None)),
        {"image_std": [0, 0, 0]},
        {"image_mean": [float("nan")] * 3},
    ],
    ids=str,
)
def test_preprocessing_of_a_transformers_directory(
    directory: Path, changes: dict[str, Any]
) -> None:
    path = directory / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(directory)


def test_weights_of_a_transformers_directory(directory: Path) -> None:
    name = "model.transformer_module.decoder.layers.0.self_attn.q_proj.weight"
    state = mpdiag.checkpoints.reading.read_state_dict(directory / "model.safetensors")
    for tensor in (torch.tensor(1.0), torch.zeros(5), torch.zeros(32, 31), HUGE):
        (directory / "model.safetensors").unlink(missing_ok=True)
        torch.save({**state, name: tensor}, directory / "pytorch_model.bin")
        refused(directory)


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of a model that transformers runs."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("external")
    config = transformers.DetrConfig(
        use_timm_backbone=True,
        backbone="resnet18",
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=4,
    )
    transformers.DetrForSegmentation(config).save_pretrained(path)
    transformers.DetrImageProcessor().save_pretrained(path)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        *({key: value} for key in ("encoder_layers", "num_queries", "d_model")
          for value in (10**6, 10**9, -1, "x")),
        {"encoder_layers": 10**6, "decoder_layers": 10**6},
        *({"backbone_config": {"model_type": "timm_backbone", "backbone": name}}
          for name in ("hf-hub:evil/model", "local-dir:/etc", "evil/model")),
        *({"backbone_config": None, "use_timm_backbone": timm, "backbone": name}
          for timm in (True, False) for name in ("evil/model", "hf-hub:evil/model")),
        {"backbone_config": None, "use_timm_backbone": False, "backbone": "resnet18"},
        {"backbone_config": {"model_type": "swin", "depths": [10**6] * 4}},
        {"backbone_config": {"model_type": "swin", "window_size": 10**5}},
        {"backbone_config": {"model_type": "resnet", "hidden_sizes": [8] * 10**5}},
        {"backbone_config": 5},
        {"id2label": 5},
    ],
    ids=range(26),
)  # fmt: skip
def test_settings_of_models_of_transformers(
    tmp_path: Path, external: Path, changes: dict[str, Any]
) -> None:
    for file in external.iterdir():
        (tmp_path / file.name).symlink_to(file)
    settings = json.loads((external / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(settings | changes))
    refused(tmp_path, open_model)


def test_layers_of_all_parts_together_are_limited(tmp_path: Path, external: Path) -> None:
    for file in external.iterdir():
        (tmp_path / file.name).symlink_to(file)
    settings = json.loads((external / "config.json").read_text())
    entries = len(load_file(external / "model.safetensors"))
    # No number exceeds the entries, but the stages have 12 times as many blocks.
    settings["backbone_config"] = {"model_type": "swin", "depths": [entries] * 12, "embed_dim": 8}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"layers with depths, but at most .* is possible"):
        open_model(tmp_path)


def test_image_sizes_of_models_of_transformers(tmp_path: Path, external: Path) -> None:
    for file in external.iterdir():
        (tmp_path / file.name).symlink_to(file)
    settings = json.loads((external / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").unlink()
    settings["size"] = {"shortest_edge": 10**6, "longest_edge": 10**6}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert "shortest_edge = 1000000" in refused(tmp_path, open_model)


def test_a_timm_backbone_is_not_downloaded(tmp_path: Path, external: Path) -> None:
    """The configurations of DETR on the hub request pretrained weights."""
    for file in external.iterdir():
        (tmp_path / file.name).symlink_to(file)
    settings = json.loads((external / "config.json").read_text())
    settings |= {"backbone_config": None, "use_timm_backbone": True, "backbone": "resnet18"}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(settings | {"use_pretrained_backbone": True}))
    assert open_model(tmp_path).module.config.backbone_config.backbone == "resnet18"
