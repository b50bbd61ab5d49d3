"""What a model costs: parameters and multiply-adds of each part, and images per second.

Published for Mask2Former R50 with 80 classes and 100 queries: 44 M parameters, 226 G "FLOPs", which
fvcore counted as an average over 100 COCO validation images (shorter side 800, longer at most
1333), and 9.7 images per second on a V100. Here: 43,970,257 parameters, as the official model has.
Multiply-adds go with the image: 218.3 G at 800 x 1066, 269.3 G at 800 x 1333, 230.5 G on average
over 80 COCO validation images; other images are the difference to 226 G.

For one image of 800 x 1066 fvcore counts 217.9 G for the official model. It adds 0.8 G for norms
and 1.9 G for bilinear reads and resizing; we add 1.4 G for the query-key product of masked
attention, which fvcore doesn't know in its form `baddbmm`, and 1.4 G for the attention masks, made
from features at their own resolution where the official model resizes its full-size masks, and
0.3 G for weighing the samples of deformable attention by a product.
"""

import statistics
import time
from itertools import chain

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mpdiag.errors import ConfigError
from mpdiag.models.inference import Sizes, instance_inference
from mpdiag.models.mask2former import Mask2Former, padded_size
from mpdiag.ops import use_backend


def parameters(model: nn.Module) -> dict[str, int]:
    """Trainable and other parameters of each part of a model, and their "total".

    Buffers aren't counted, and so neither are the scales and shifts of a frozen batch norm.
    """
    counts = {
        name: sum(weights.numel() for weights in part.parameters())
        for name, part in model.named_children()
    }
    return counts | {"total": sum(weights.numel() for weights in model.parameters())}


def multiply_adds(model: nn.Module, height: int, width: int) -> dict[str, int]:
    """Multiply-adds of each part for one image of this size, and their "total".

    One multiply-add counts once, as fvcore counts the "FLOPs" of the papers. Counted, by torch's
    `FlopCounterMode`: convolutions and matrix products, with both products of attention and the
    weighing of deformable attention's samples. Not counted: the bilinear reads of deformable
    attention and of resizing, norms, softmax, whatever is done element by element, and the
    post-processing. Nothing is computed, only shapes pass.
    """
    values = list(chain(model.named_parameters(), model.named_buffers()))
    plain = use_backend("plain")  # kernels of other backends are not counted
    with plain, FakeTensorMode(), FlopCounterMode(display=False) as counter:
        state = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in values}
        functional_call(model, state, ([torch.empty(3, height, width)],))
    found = counter.get_flop_counts()
    root = type(model).__name__
    counts = {
        name: sum(found.get(f"{root}.{name}", {}).values()) // 2
        for name, _ in model.named_children()
    }
    return counts | {"total": counter.get_total_flops() // 2}


@torch.inference_mode()
def frames_per_second(
    model: Mask2Former, height: int, width: int, *, runs: int = 10, patience: float = 20.0
) -> float:
    """Images of this size per second, one at a time, on the model's device; the median of runs.

    As in the papers, a run is the model and the post-processing, here to 100 instances at the
    image's own size.

    Args:
        model: in evaluation mode.
        height, width: the image's size in pixels.
        runs: how many are timed, after one that is not.
        patience: seconds after which no further run begins, once one was timed.
    """
    device = model.get_buffer("mean").device
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, device=device)
    sizes = Sizes(padded_size([(height, width)]), (height, width), (height, width))
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) <= runs and sum(seconds) < patience):
        started = time.perf_counter()
        found = model([image]).matching
        instance_inference(found.class_logits[-1, 0], found.mask_logits[-1, 0], sizes)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 1 / statistics.median(seconds[1:])


def cost_rows(model: Mask2Former, height: int, width: int) -> list[tuple[str, str]]:
    """Multiply-adds of each part and images per second as (what, value), for `mpdiag info`.

    The model is timed on the GPU where there is one, and stays there.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    at = f"at {height}x{width}"
    counts = multiply_adds(model, height, width)
    counts["all parts"] = counts.pop("total")
    speed = frames_per_second(model.to(device).eval(), height, width)
    return [
        *(
            (f"{part.replace('_', ' ')} {at}", f"{count / 1e9:.4g} G multiply-adds")
            for part, count in counts.items()
        ),
        (f"speed {at}", f"{speed:.3g} images per second on {device}"),
    ]


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of a text such as 800x1333. ConfigError where it is none."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ConfigError(f"--size {text}: give height and width in pixels, as 800x1333")
    return int(height), int(width)
