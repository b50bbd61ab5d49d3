"""What a model costs: parameters and multiply-adds of each part, and images per second."""

import statistics
import time
from itertools import chain

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mpdiag.models.inference import Sizes, instance_inference
from mpdiag.models.mask2former import Mask2Former, padded_size


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
    `FlopCounterMode`: convolutions and matrix products, with both products of attention. Not
    counted: the bilinear reads of deformable attention and of resizing, norms, softmax, whatever
    is done element by element, and the post-processing. Nothing is computed, only shapes pass.
    """
    state = {
        name: values.to("meta")
        for name, values in chain(model.named_parameters(), model.named_buffers())
    }
    image = torch.empty(3, height, width, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(model, state, ([image],))
    found = counter.get_flop_counts()
    root = type(model).__name__
    counts = {
        name: sum(found.get(f"{root}.{name}", {}).values()) // 2
        for name, _ in model.named_children()
    }
    return counts | {"total": counter.get_total_flops() // 2}


@torch.inference_mode()
def frames_per_second(
    model: Mask2Former, height: int, width: int, *, warmup: int = 3, runs: int = 10
) -> float:
    """Images of this size per second, one at a time, on the model's device; the median of runs.

    As in the papers, a run is the model and the post-processing, here to 100 instances at the
    image's own size.
    """
    device = model.get_buffer("mean").device
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, device=device)
    sizes = Sizes(padded_size([(height, width)]), (height, width), (height, width))
    seconds = []
    for _ in range(warmup + runs):
        started = time.perf_counter()
        found = model([image]).matching
        instance_inference(found.class_logits[-1, 0], found.mask_logits[-1, 0], sizes)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 1 / statistics.median(seconds[warmup:])
