"""Seeded mutations of checkpoints: every outcome is a success or an MpdiagError."""

import copy
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mpdiag.checkpoints import save_checkpoint
from mpdiag.checkpoints.describe import describe
from mpdiag.checkpoints.opening import open_model
from mpdiag.checkpoints.transformers_directory import write_transformers
from mpdiag.config import ModelConfig, TrainConfig
from mpdiag.errors import MpdiagError
from mpdiag.models import Mask2Former

pytestmark = pytest.mark.usefixtures("one_gib")

VALUES: list[Any] = [
    None, True, 0, -1, 1, 7, 33, 10**6, 2**63 - 1, 0.5, float("nan"), float("inf"), "", "x",
    "hf-hub:evil/model", "/etc", [], [1], [[]], {}, {"a": 1}, ["x"] * 40, "9" * 400,
]  # fmt: skip


def mutate_bytes(data: bytes, generator: random.Random) -> bytes:
    """Flip, replace, insert or remove bytes, most of them near the start or the end."""
    mutated = bytearray(data)
    for _ in range(generator.choice((1, 2, 8))):
        near = min(len(mutated), 4000)
        position = generator.choice((generator.randrange(near), -generator.randrange(1, near)))
        kind, length = generator.randrange(4), generator.choice((1, 4, 16))
        position %= len(mutated)
        if kind == 0:
            mutated[position] ^= 1 << generator.randrange(8)
        elif kind == 1:
            mutated[position : position + length] = generator.randbytes(length)
        elif kind == 2:
            mutated[position:position] = generator.choice((b"\xff" * 8, b"0", b"}", b"\x00"))
        else:
            del mutated[position : position + length]
    return bytes(mutated)


def mutate_tree(tree: Any, generator: random.Random) -> Any:
    """Replace, remove or rename values of a copy of nested dicts and lists."""
    tree = copy.deepcopy(tree)
    for _ in range(generator.choice((1, 1, 3))):
        node, parent, key = tree, None, None
        while (
            isinstance(node, dict | list) and node and (parent is None or generator.random() < 0.8)
        ):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            parent, key = node, generator.choice(list(keys))
            node = parent[key]
        if parent is None:
            continue
        kind = generator.randrange(6)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[generator.choice(("x", "model", "backbone", "\x1b[0m"))] = parent.pop(key)
        elif kind == 2 and isinstance(node, int | float):
            parent[key] = node * generator.choice((-1, 2, 1000, 10**9))
        else:
            parent[key] = copy.deepcopy(generator.choice(VALUES))
    return tree


def mutate_tensor(tensor: Tensor, generator: random.Random) -> Tensor:
    flat = tensor.flatten()
    changes: list[Callable[[], Tensor]] = [
        lambda: flat,
        lambda: flat[:0],
        lambda: flat[0],
        lambda: tensor[None],
        lambda: tensor[:1] if tensor.ndim else tensor,
        lambda: torch.cat([flat, flat]),
        lambda: flat[:1].expand(10**9),
        lambda: tensor.expand(generator.choice((3, 10**6)), *tensor.shape),
        lambda: tensor.transpose(0, -1) if tensor.ndim else tensor,
        lambda: tensor.to(torch.float64),
        lambda: tensor.to(torch.int8),
        lambda: tensor.to(torch.bool),
        lambda: tensor.to(torch.complex64),
        lambda: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor,
    ]
    return generator.choice(changes)()


def mutate_state(state: dict[str, Tensor], generator: random.Random) -> dict[str, Tensor]:
    state, names = dict(state), list(state)
    for _ in range(generator.choice((1, 1, 3))):
        name, kind = generator.choice(names), generator.randrange(4)
        if kind == 0:
            state.pop(name, None)
        elif kind == 1:
            other = generator.choice(names).replace("0", generator.choice("1579"))
            state[other] = state.get(name, torch.ones(1))
        else:
            state[name] = mutate_tensor(state.get(name, torch.ones(2)), generator)
    return state


@pytest.fixture(scope="module")
def model(small_config: ModelConfig) -> Mask2Former:
    torch.manual_seed(0)
    return Mask2Former(small_config).eval()


@pytest.fixture(scope="module")
def saved(model: Mask2Former, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a recipe, as a training writes it."""
    path = tmp_path_factory.mktemp("saved") / "model.pth"
    classes = [{"category_id": k, "name": f"class {k}", "isthing": True} for k in range(3)]
    own = {"recipe": TrainConfig(model=model.config).model_dump(mode="json"), "classes": classes}
    save_checkpoint(path, model, iteration=5, mpdiag=own)
    return path


@pytest.fixture(scope="module")
def directory(small_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("there")
    config = small_config.model_copy(update={"label_embedding": False})
    write_transformers(path, Mask2Former(config))
    return path


def attempt(path: Path, read: Callable[[Path], object]) -> bool:
    """Return whether a checkpoint can be read; an MpdiagError of one line is the only error."""
    started = time.process_time()
    try:
        read(path)
        valid = True
    except MpdiagError as error:
        valid = False
        assert "\n" not in str(error) and "MemoryError" not in str(error)
    assert time.process_time() - started < 5
    return valid


@pytest.mark.parametrize("seed", range(4))
def test_bytes(tmp_path: Path, saved: Path, model: Mask2Former, seed: int) -> None:
    generator = random.Random(seed)
    path = tmp_path / ("model.pth" if seed % 2 else "model.safetensors")
    data = saved.read_bytes()
    if not seed % 2:
        save_file(model.state_dict(), path)
        data = path.read_bytes()
    for _ in range(60):
        path.write_bytes(mutate_bytes(data, generator))
        attempt(path, describe)


@pytest.mark.parametrize("seed", range(4))
def test_entries(tmp_path: Path, saved: Path, seed: int) -> None:
    generator, path = random.Random(seed), tmp_path / "model.pth"
    content = torch.load(saved, weights_only=True)
    if seed % 2:  # an official checkpoint
        del content["mpdiag"]
    for count in range(24):
        torch.save({**content, "model": mutate_state(content["model"], generator)}, path)
        attempt(path, describe if count % 6 else open_model)


@pytest.mark.parametrize("seed", range(4))
def test_recipes(tmp_path: Path, saved: Path, seed: int) -> None:
    generator, path = random.Random(seed), tmp_path / "model.pth"
    content = torch.load(saved, weights_only=True)
    for count in range(24):
        own = mutate_tree({"mpdiag": content["mpdiag"], "iteration": 5}, generator)
        torch.save({"model": content["model"], **own}, path)
        attempt(path, describe if count % 6 else open_model)


@pytest.mark.parametrize("seed", range(3))
def test_directories(tmp_path: Path, directory: Path, seed: int) -> None:
    generator = random.Random(seed)
    names = ["config.json", "preprocessor_config.json"]
    (tmp_path / "model.safetensors").symlink_to(directory / "model.safetensors")
    for count in range(24):
        for name in names:
            (tmp_path / name).write_bytes((directory / name).read_bytes())
        name = generator.choice(names)
        content = json.loads((directory / name).read_text())
        (tmp_path / name).write_text(json.dumps(mutate_tree(content, generator)))
        attempt(tmp_path, describe if count % 6 else open_model)
