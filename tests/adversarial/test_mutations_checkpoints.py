"""Seeded mutations of checkpoints: every outcome is a success or an MpdiagError."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

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

from .mutations import check_error, mutate_bytes, mutate_tree, seeds

pytestmark = pytest.mark.usefixtures("one_gib")


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


def attempt(path: Path, read: Callable[[Path], object]) -> None:
    """Read a checkpoint; the only error is an MpdiagError, within 5 seconds."""
    started = time.process_time()
    try:
        read(path)
    except MpdiagError as error:
        check_error(error)
    assert time.process_time() - started < 5


def reader(seed: int) -> Callable[[Path], object]:
    """Return `describe`, which is cheap, or for some seeds `open_model`, which builds the model."""
    return open_model if seed % 8 == 0 else describe


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_mutated_bytes(tmp_path: Path, saved: Path, model: Mask2Former, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    data = saved.read_bytes()
    if suffix == ".safetensors":
        save_file(model.state_dict(), path)
        data = path.read_bytes()
    for seed in seeds(100):
        path.write_bytes(mutate_bytes(data, random.Random(seed)))
        attempt(path, describe)


@pytest.mark.parametrize("official", [False, True])
def test_mutated_entries(tmp_path: Path, saved: Path, official: bool) -> None:
    path = tmp_path / "model.pth"
    content = torch.load(saved, weights_only=True)
    if official:
        del content["mpdiag"]
    for seed in seeds(30):
        state = mutate_state(content["model"], random.Random(seed))
        torch.save({**content, "model": state}, path)
        attempt(path, reader(seed))


def test_mutated_recipes_in_checkpoints(tmp_path: Path, saved: Path) -> None:
    path, content = tmp_path / "model.pth", torch.load(saved, weights_only=True)
    for seed in seeds(60):
        own = mutate_tree({"mpdiag": content["mpdiag"], "iteration": 5}, random.Random(seed))
        torch.save({"model": content["model"], **own}, path)
        attempt(path, reader(seed))


def test_mutated_directories(tmp_path: Path, directory: Path) -> None:
    names = ["config.json", "preprocessor_config.json"]
    (tmp_path / "model.safetensors").symlink_to(directory / "model.safetensors")
    for seed in seeds(40):
        rng = random.Random(seed)
        for name in names:
            (tmp_path / name).write_bytes((directory / name).read_bytes())
        name = rng.choice(names)
        content = json.loads((directory / name).read_text())
        (tmp_path / name).write_text(json.dumps(mutate_tree(content, rng)))
        attempt(tmp_path, reader(seed))
