"""Complexity of a model: parameters and multiply-adds of each part, and images per second.

Published for Mask2Former R50 with 80 classes and 100 queries: 44 M parameters, 226 G "FLOPs", which
fvcore counted as an average over 100 COCO validation images (shorter side 800, longer at most
1333), and 9.7 images per second on a V100. Here: 43,970,257 parameters, as the official model has.
Multiply-adds depend on the image size: 218.3 G at 800 x 1066, 269.3 G at 800 x 1333, 230.5 G on
average over 80 COCO validation images. The difference to 226 G comes from the choice of images.

For one image of 800 x 1066 fvcore counts 217.9 G for the official model. fvcore includes 0.8 G for
norms and 1.9 G for bilinear sampling and resizing. This module includes instead 1.4 G for the
query-key product of masked attention (fvcore does not support `baddbmm`), 1.4 G for attention masks
at the resolution of each level (the official model resizes its full-size masks), and 0.3 G for the
weighted sum of deformable attention.
"""

import statistics
import time
from itertools import chain

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mpdiag.models.inference import ImageSizes, instance_inference
from mpdiag.models.mask2former import Mask2Former, padded_size
from mpdiag.ops import use_backend


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters of each part of a model, and their "total".

    Buffers, and so the scales and shifts of a frozen batch norm, are not counted.
    """
    counts = {
        name: sum(weights.numel() for weights in part.parameters())
        for name, part in model.named_children()
    }
    return counts | {"total": sum(weights.numel() for weights in model.parameters())}


def count_multiply_adds(model: nn.Module, height: int, width: int) -> dict[str, int]:
    """Return the multiply-adds of each part for one image of this size, and their "total".

    A multiply-add counts once, as in fvcore and the "FLOPs" of the papers. `FlopCounterMode` counts
    convolutions and matrix products, including both products of attention and the weighted sum of
    deformable attention. It does not count bilinear sampling, resizing, norms, softmax,
    element-wise operations and post-processing. The model runs on fake tensors.
    """
    values = list(chain(model.named_parameters(), model.named_buffers()))
    plain = use_backend("plain")  # FlopCounterMode does not count the other backends
    with plain, FakeTensorMode(), FlopCounterMode(display=False) as counter:
        state = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in values}
        functional_call(model, state, ([torch.empty(3, height, width)],))
    flops = counter.get_flop_counts()
    root = type(model).__name__
    counts = {
        name: sum(flops.get(f"{root}.{name}", {}).values()) // 2
        for name, _ in model.named_children()
    }
    return counts | {"total": counter.get_total_flops() // 2}


@torch.inference_mode()
def frames_per_second(
    model: Mask2Former, height: int, width: int, *, runs: int = 10, time_limit: float = 20.0
) -> float:
    """Return the images per second at batch size 1 on the model's device, the median over runs.

    As in the papers, a run includes the post-processing, here to 100 instances at the image size.

    Args:
        model: a model in evaluation mode.
        height, width: image size in pixels.
        runs: number of timed runs, after one warm-up run.
        time_limit: seconds after which no further run starts.
    """
    device = model.get_buffer("mean").device
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, device=device)
    sizes = ImageSizes(padded_size([(height, width)]), (height, width), (height, width))
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) <= runs and sum(seconds) < time_limit):
        started = time.perf_counter()
        matching = model([image]).matching
        instance_inference(matching.class_logits[-1, 0], matching.mask_logits[-1, 0], sizes)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 1 / statistics.median(seconds[1:])


def complexity_rows(model: Mask2Former, height: int, width: int) -> list[tuple[str, str]]:
    """Return multiply-adds of each part and images per second as (label, value) for `mpdiag info`.

    The model is moved to the GPU if there is one.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    at = f"at {height}x{width}"
    counts = count_multiply_adds(model, height, width)
    counts["all parts"] = counts.pop("total")
    speed = frames_per_second(model.to(device).eval(), height, width)
    return [
        *(
            (f"{part.replace('_', ' ')} {at}", f"{count / 1e9:.4g} G multiply-adds")
            for part, count in counts.items()
        ),
        (f"speed {at}", f"{speed:.3g} images per second on {device}"),
    ]
