"""Files of DIR/measured/, of which only those with all values that a report needs are read."""

from itertools import product
from pathlib import Path
from typing import Any

from pydantic import BaseModel, FiniteFloat, RootModel, ValidationError, model_validator

from mpdiag.reproduce.directory import read_json
from mpdiag.reproduce.measurements import NOISES, RATIOS, STRIDES


class ModelCost(BaseModel):
    """Cost of a model."""

    parameters: int
    multiply_adds: int
    frames_per_second: FiniteFloat
    height: int
    width: int
    device: str


class ModelCosts(RootModel[dict[str, ModelCost]]):
    """Result of `model_costs`."""


class NoiseRow(BaseModel):
    """Distribution of the IoU for a noise, a ratio and a stride."""

    noise: str
    ratio: float
    stride: int
    masks: int
    mean: FiniteFloat
    least: FiniteFloat
    low: FiniteFloat
    median: FiniteFloat
    high: FiniteFloat
    histogram: list[int]


class NoiseExample(BaseModel):
    """A mask as rows of 0 and 1, with and without noise."""

    noise: str
    iou: FiniteFloat
    clean: list[str]
    noised: list[str]


class NoiseOverlap(BaseModel):
    """Result of `noise_overlap`."""

    dataset: str
    images: int
    rows: list[NoiseRow]
    examples: list[NoiseExample]

    @model_validator(mode="after")
    def _has_all_rows(self) -> "NoiseOverlap":
        if {(x.noise, x.ratio, x.stride) for x in self.rows} != {*product(NOISES, RATIOS, STRIDES)}:
            raise ValueError("other noises, ratios or strides")
        return self


class ResampledRun(BaseModel):
    """Metrics of a run for samples of images, and the run."""

    origin: dict[str, Any]
    values: dict[str, list[FiniteFloat | None]]


def read_measured(path: Path, content: type[BaseModel]) -> dict[str, Any]:
    """Return a file of DIR/measured/; empty if it is missing or has other content."""
    values = read_json(path)
    try:
        content.model_validate(values, strict=True)
    except ValidationError:
        return {}
    return values
