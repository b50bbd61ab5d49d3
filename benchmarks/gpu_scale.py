"""Sizes and names of the figures of `mpdiag bench gpu`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.memory import TINY
from mpdiag.choices import Tf32
from mpdiag.config import ModelConfig

Size = tuple[int, int]

JOBS = {"forward": False, "forward + backward": True}  # with the backward pass

PRECISIONS: Mapping[str, tuple[Literal["float32", "bf16"], Tf32]] = {
    "float32": ("float32", "none"),
    "tf32": ("float32", "all"),
    "bf16": ("bf16", "convolutions"),  # as the published recipes
    "bf16 and tf32": ("bf16", "all"),
}


@dataclass(frozen=True)
class Scale:
    """Sizes of the steps.

    Attributes:
        name: "full" or "toy".
        model: architecture.
        changes: settings of the recipe of the published MP-Former R50.
        crop, batch: size and number of the training images.
        image: size of an image at inference.
        attention_sizes: sizes of the images of deformable attention.
        repeats: timed steps, runs and analysed images.
        workers: processes that load images.
        peer: compare with transformers.
        tests: arguments of pytest.
    """

    name: str
    model: ModelConfig
    changes: tuple[str, ...]
    crop: Size
    batch: int
    image: Size
    attention_sizes: tuple[Size, ...]
    repeats: int
    workers: int
    peer: bool
    tests: tuple[str, ...]


FULL = Scale(
    name="full",
    model=ModelConfig(),
    changes=("pilot.num_queries=100",),
    crop=(1024, 1024),
    batch=2,  # of a GPU in the published runs
    image=(800, 1333),
    attention_sizes=((800, 1333), (1024, 1024)),
    repeats=20,
    workers=16,
    peer=True,
    tests=("-m", "cuda", "tests/cuda", "tests/mpdiag/ops", "tests/parity"),
)
TOY = Scale(
    name="toy",
    model=TINY.model_copy(update={"decoder_layers": 1, "num_queries": 8}),
    changes=("pilot.num_queries=8", "loss.num_points=64"),
    crop=(64, 64),
    batch=2,
    image=(64, 96),
    attention_sizes=((32, 32),),
    repeats=1,
    workers=0,
    peer=False,
    tests=("--noconftest", "tests/test_check_language.py"),
)
SCALES = {scale.name: scale for scale in (FULL, TOY)}


def attention_figure(dtype: str, size: Size, job: str) -> str:
    """Return the name of the time of the fastest backend of deformable attention."""
    return f"attention, {dtype}, {size[0]}x{size[1]}, {job}"


def training_figure(precision: str, method: str) -> str:
    """Return the name of the time of a training step."""
    return f"training step, {precision}, {method}"


def inference_figure(precision: str) -> str:
    """Return the name of the time of a forward pass."""
    return f"inference, {precision}"
