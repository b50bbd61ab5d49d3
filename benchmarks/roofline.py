"""Times that a GPU cannot beat, from FLOP counts and memory traffic: what `bench gpu` should show.

The bound of an operator is the larger of its floating-point operations at the peak rate and of its
memory traffic at the peak bandwidth; each operand is read once and each result written once. The
bound of a model is the sum over its operators, as PyTorch runs them one after the other. Besides,
the CPU needs `LAUNCH` for each operator, so that many small operators take at least that long.

`python -m benchmarks.roofline` writes the predictions to roofline_h200.json and prints the table of
reports/published/performance.md.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.gpu_scale import (
    FULL,
    JOBS,
    PRECISIONS,
    attention_figure,
    inference_figure,
    training_figure,
)
from benchmarks.ops import encoder_problem
from benchmarks.scenes import OBJECTS
from mpdiag.choices import Tf32
from mpdiag.config import ModelConfig
from mpdiag.models import Mask2Former
from mpdiag.ops import use_backend

FILE = Path(__file__).with_name("roofline_h200.json")
POINTS = 12544  # of matching and losses
LAUNCH = 5e-6  # seconds of the CPU for one operator, typical of PyTorch
VIEWS = (torch.ops.aten._unsafe_view.default,)  # besides those that PyTorch marks


@dataclass(frozen=True)
class Gpu:
    """Peak rates of a GPU, from its data sheet, without sparsity.

    Attributes:
        bandwidth: bytes per second of its memory.
        flops: floating-point operations per second by precision.
        pcie: bytes per second between CPU and GPU.
    """

    name: str
    bandwidth: float
    flops: dict[str, float]
    pcie: float


H200 = Gpu("NVIDIA H200", 4.8e12, {"float32": 67e12, "tf32": 495e12, "bf16": 989e12}, 55e9)


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """Floating-point operations and traffic in bytes of one operator."""

    name: str
    flops: int
    bytes: int
    half: bool  # bfloat16
    convolution: bool


class OperatorCosts(TorchDispatchMode):
    """Record the cost of each operator that runs in the context, views excepted."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.costs: list[OperatorCost] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        written = [x for x in tree_leaves(found) if isinstance(x, Tensor)]
        if not func.is_view and func not in VIEWS and written:
            count = flop_registry.get(func.overloadpacket)
            flops = count(*args, **kwargs, out_val=found) if count else 0
            traffic = sum(x.numel() * x.element_size() for x in read + written)
            half = written[0].dtype == torch.bfloat16
            self.costs.append(
                OperatorCost(str(func), flops, traffic, half, "convolution" in str(func))
            )
        return found

    def bound(self, gpu: Gpu, tf32: Tf32) -> float:
        """Return the seconds of all operators on a GPU; see `mpdiag.ops.set_tf32`."""
        return sum(
            max(cost.bytes / gpu.bandwidth, cost.flops / gpu.flops[_rate(cost, tf32)])
            for cost in self.costs
        )

    @property
    def launches(self) -> float:
        """Seconds of the CPU to start the operators."""
        return LAUNCH * len(self.costs)


def model_costs(
    config: ModelConfig, size: tuple[int, int], batch: int, *, half: bool, backward: bool
) -> OperatorCosts:
    """Return the costs of a forward pass, and with `backward` of the backward pass and AdamW.

    Deformable attention counts as one operator, as with the kernels for CUDA. No tensor is computed
    or allocated. Matching and losses are left out; `loss_bytes` estimates them.
    """
    costs = OperatorCosts()
    with use_backend("cpp"), FakeTensorMode():
        model = Mask2Former(config)
        images = [torch.empty(3, *size, dtype=torch.uint8) for _ in range(batch)]
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        with costs, torch.set_grad_enabled(backward):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                output = model(images).matching
            if backward:
                loss = output.mask_logits.float().sum() + output.class_logits.float().sum()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
    return costs


def loss_bytes(config: ModelConfig, size: tuple[int, int], masks: int, maps: int) -> int:
    """Estimate the traffic of matching and losses, from counts of arrays by hand.

    Args:
        config: the model.
        size: height and width of the padded images.
        masks: number of GT masks that the losses compare, over images and queries of one layer.
        maps: number of predicted masks that are matched, over images and queries of one layer.
    """
    points, layers = POINTS, config.decoder_layers + 1
    cells = (size[0] // 4) * (size[1] // 4)
    per_mask = (
        3 * points * 4 * 25  # candidates: drawn, moved, sampled at four cells, ranked
        + points * 4 * 50  # GT at the chosen points, losses and their gradients
        + cells * 4 * 4  # copies of the matched masks, and their gradients
    )
    per_map = points * 4 * 10 + cells * 4  # sampled at the points, softplus, sigmoid, products
    return layers * (masks * per_mask + maps * per_map)


def _rate(cost: OperatorCost, tf32: Tf32) -> str:
    if cost.half:
        return "bf16"
    return "tf32" if tf32 == "all" or (cost.convolution and tf32 == "convolutions") else "float32"


@dataclass(frozen=True, slots=True)
class Prediction:
    """Bounds of a figure of `bench gpu` in seconds; the larger one is the prediction.

    Attributes:
        figure: its name.
        gpu: time of the operators on the GPU.
        cpu: time of the CPU to start them.
    """

    figure: str
    gpu: float
    cpu: float


def predict(gpu: Gpu = H200) -> list[Prediction]:
    """Return the bounds of the figures of `bench gpu --size full`."""
    return [*_attention(gpu), *_training(gpu), *_inference(gpu)]


def _attention(gpu: Gpu) -> Iterator[Prediction]:
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        for size in FULL.attention_sizes:
            with FakeTensorMode():
                problem = encoder_problem(*size, FULL.batch, dtype, torch.device("cpu"))
                for job, backward in JOBS.items():
                    figure = attention_figure(name, size, job)
                    yield Prediction(figure, problem.bytes(backward) / gpu.bandwidth, LAUNCH)


def _training(gpu: Gpu) -> Iterator[Prediction]:
    """The MP part counts as its number of further queries, which are all compared with GT."""
    published, size, batch = ModelConfig(), FULL.crop, FULL.batch
    pilot = 2 * published.num_queries
    objects = batch * OBJECTS
    for half in (False, True):
        for name, queries in (("baseline", published.num_queries), ("multi-layer MP", pilot)):
            config = published.model_copy(update={"num_queries": queries})
            costs = model_costs(config, size, batch, half=half, backward=True)
            masks = objects + batch * (queries - published.num_queries)
            losses = loss_bytes(config, size, masks, batch * published.num_queries) / gpu.bandwidth
            for precision, (autocast, tf32) in PRECISIONS.items():
                if half == (autocast == "bf16"):
                    bound = costs.bound(gpu, tf32) + losses
                    yield Prediction(training_figure(precision, name), bound, costs.launches)


def _inference(gpu: Gpu) -> Iterator[Prediction]:
    for half in (False, True):
        costs = model_costs(ModelConfig(), FULL.image, 1, half=half, backward=False)
        for precision, (autocast, tf32) in PRECISIONS.items():
            if half == (autocast == "bf16"):
                bound = costs.bound(gpu, tf32)
                yield Prediction(inference_figure(precision), bound, costs.launches)


def read_predictions() -> dict[str, float]:
    """Return the seconds of each figure that were written before the first run on a GPU."""
    return {row["figure"]: max(row["gpu"], row["cpu"]) for row in json.loads(FILE.read_text())}


def table() -> str:
    """Return the predictions as a table in Markdown, in milliseconds."""
    lines = ["| figure | GPU | CPU | predicted |", "|---|---|---|---|"]
    for row in json.loads(FILE.read_text()):
        values = (row["gpu"], row["cpu"], max(row["gpu"], row["cpu"]))
        lines.append(" | ".join([f"| {row['figure']}", *(f"{1e3 * x:.3g}" for x in values)]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    FILE.write_text(json.dumps([asdict(prediction) for prediction in predict()], indent=1) + "\n")
    print(table())
