"""Modules whose outputs have fewer bits than float32."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mpdiag.analysis.adapter import batch_targets
from mpdiag.diagnosis.candidate import Candidate
from mpdiag.diagnosis.changes import Changes, weighted_modules
from mpdiag.diagnosis.collect import Collector
from mpdiag.diagnosis.trials import Trials

UNUSED_BITS = 13
"""Last bits of the 23 of float32's mantissa that float16 lacks. bfloat16 lacks three more."""

COARSE_SHARE = 0.99  # of the numbers that are not zero
MIN_NUMBERS = 100
MAX_NUMBERS = 4096  # of each output


def check_precision(trials: Trials) -> Iterator[Candidate]:
    """Yield float32 for the modules whose outputs have at most the bits of float16 or bfloat16."""
    coarse = coarse_modules(trials.collector)
    if coarse:
        yield Candidate(
            "precision",
            changes=Changes(float32_modules=frozenset(coarse)),
            evidence={"modules": len(coarse), "examples": sorted(coarse)[:5]},
        )


@torch.inference_mode()
def coarse_modules(collector: Collector) -> list[str]:
    """Return the names of the modules with float32 weights and coarse outputs, on the first image.

    Embeddings do not count: their outputs are weights.
    """
    coarse: dict[str, bool] = {}

    def measure(module: Any, args: Any, output: Any, *, name: str) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            coarse[name] = coarse.get(name, True) and has_unused_bits(output)

    handles = [
        module.register_forward_hook(partial(measure, name=name))
        for name, module in weighted_modules(collector.adapter.module).items()
    ]
    try:
        samples = map(collector.ground_truth.read_sample, collector.indices[:1])
        batch = next(iter(collector.adapter.batches(samples, collector.device)))
        targets = batch_targets(batch, collector.device)
        collector.adapter.predict(batch, targets, attention=False)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, value in coarse.items() if value]


def has_unused_bits(values: Tensor) -> bool:
    """Return whether the last bits of nearly all numbers, as float32, are zero."""
    flat = values.flatten()
    numbers = flat[:: len(flat) // MAX_NUMBERS + 1].float()
    numbers = numbers[numbers.isfinite() & (numbers != 0)]
    if len(numbers) < MIN_NUMBERS:
        return False
    bits = numbers.contiguous().view(torch.int32) & ((1 << UNUSED_BITS) - 1)
    return float((bits == 0).float().mean()) >= COARSE_SHARE
