"""Measurements of a model that belong to no cause: what they show is no finding by itself.

They run the model on the first images again: with flipped images, rounded activations, GT as
attention masks, and without self-attention.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mpdiag.analysis.intervened_adapter import IntervenedAdapter
from mpdiag.analysis.options import AnalysisOptions
from mpdiag.config import ModelConfig
from mpdiag.diagnosis.changes import Changes
from mpdiag.diagnosis.collect import NO_CHANGES, Collector
from mpdiag.diagnosis.evidence import Evidence
from mpdiag.diagnosis.trials import Trials
from mpdiag.errors import ConfigError
from mpdiag.models import Mask2Former
from mpdiag.models.complexity import count_multiply_adds
from mpdiag.models.mask2former import STRIDE, padded_size
from mpdiag.store.diagnosis import Diagnosis

ROUNDED = {"bfloat16_gain": torch.bfloat16, "float16_gain": torch.float16}
INTERVENTIONS = {
    "attention_gt_gain": ("attention=gt:1-{last}", 3),
    "no_self_attention_gain": ("self-attention=none:1-{last}", sys.maxsize),
}
"""Name -> intervention and its last layer, at most."""

MASK_STRIDE = 4
ABLATION_IMAGES = 100


def add_measures(
    diagnosis: Diagnosis, collector: Collector, base: Evidence, gains: Mapping[str, float]
) -> Diagnosis:
    """Return a diagnosis with the measurements of its model.

    Args:
        diagnosis: the diagnosis.
        collector: runs the model.
        base: evidence of the unchanged model.
        gains: score that each change gains on the first images, by name.
    """
    trials = Trials(collector, base)
    first = trials.first
    own = _scores_of_layers(first)
    layers: list[dict[str, Any]] = [dict(one) for one in diagnosis.layers]
    for name, dtype in ROUNDED.items():
        rounded = trials.collect(Changes(rounded=dtype), every_layer=True)
        _add(layers, name, [_number(gain) for gain in _scores_of_layers(rounded) - own])
    if base.facts is not None and base.facts.attention is not None:
        for layer in layers[1:]:
            layer |= base.facts.attention.averages(layer["layer"])
    module = collector.adapter.module
    if isinstance(module, Mask2Former):
        _add(layers, "multiply_adds", multiply_adds_of_layers(module, _input_size(collector)))
    evidence: dict[str, Any] = {**diagnosis.evidence, "images_of_gains": len(first.images)}
    evidence["flip_gain"] = _number(trials.collect(Changes(flip=True)).score() - own[-1])
    for name, (text, most) in INTERVENTIONS.items():
        last = min(most, base.num_layers)
        with suppress(ConfigError), _intervened(collector, (text.format(last=last),)):
            changed = trials.collect(NO_CHANGES, stored=False)
            evidence[name] = _number(changed.score() - own[-1])
    evidence["gains_of_changes"] = {k: _number(v) for k, v in gains.items()}
    evidence |= query_measures(base)
    return replace(diagnosis, layers=layers, evidence=evidence)


def query_measures(evidence: Evidence) -> dict[str, Any]:
    """Return what shows whether there are enough queries, and whether each of them counts."""
    images = evidence.images
    repeated = []
    for image in images:
        queries = image.detections(evidence.rule).queries
        repeated.append(1 - len(np.unique(queries)) / max(len(queries), 1))
    gt = np.array([np.count_nonzero(~image.gt_crowd) for image in images])
    return {
        "more_gt_than_queries": float(np.mean(gt > evidence.num_queries)),
        "repeated_in_top": float(np.mean(repeated)),
        "overlap_of_masks": float(np.mean([image.overlap[-1] for image in images])),
        "ap_of_queries": ap_of_queries(evidence),
    }


def ap_of_queries(evidence: Evidence) -> list[float | None]:
    """Return the AP of the last layer that is lost without each query, on some images."""
    evidence = evidence.changed(evidence.images[:ABLATION_IMAGES])
    own = evidence.matched().values()[0]
    lost = []
    for query in range(evidence.num_queries):
        images = []
        for image in evidence.images:
            area = image.area.copy()
            area[-1, query] = np.nan  # such queries give no detection
            images.append(replace(image, area=area))
        lost.append(_number(own - evidence.changed(images).matched().values()[0]))
    return lost


def multiply_adds_of_layers(model: Mask2Former, size: tuple[int, int]) -> list[int]:
    """Return the multiply-adds of a model that ends with layer 0, 1, ..., L, for one image.

    They are those of `count_multiply_adds`, less those of the layers that are left out.
    """
    height, width = padded_size([size])
    strides = [STRIDE >> model.decoder.level_index(k) for k in range(model.config.decoder_layers)]
    added = [_of_layer(model.config, height * width, stride) for stride in strides]
    with torch.device("meta"):  # without the hooks of the model, which may hold tensors
        bare = Mask2Former(model.config)
    total = count_multiply_adds(bare.eval(), *size)["total"]
    return [total - sum(added[layer:]) for layer in range(len(added) + 1)]


def _of_layer(config: ModelConfig, pixels: int, stride: int) -> int:
    """Return the multiply-adds of a decoder layer, its attention masks and its predictions."""
    queries, dim, mask_dim = config.num_queries, config.hidden_dim, config.mask_dim
    cells = pixels // stride**2
    projections = 6 * queries * dim**2 + 2 * cells * dim**2
    products = 2 * queries * (cells + queries) * dim
    feed_forward = 2 * queries * dim * config.feedforward_dim
    embeddings = queries * dim * (2 * dim + mask_dim + config.num_classes + 1)
    masks = queries * mask_dim * (cells + pixels // MASK_STRIDE**2)
    return projections + products + feed_forward + embeddings + masks


def _input_size(collector: Collector) -> tuple[int, int]:
    """Return height and width of the first image as the model gets it."""
    sample = collector.ground_truth.read_sample(collector.indices[0])
    height, width = collector.adapter.preprocess(sample).sample.image.shape[-2:]
    return height, width


def _scores_of_layers(evidence: Evidence) -> np.ndarray[Any, np.dtype[np.float64]]:
    layers = range(evidence.num_layers + 1)
    return np.array([evidence.score(layer) for layer in layers])


def _number(value: float) -> float | None:
    """Return a float for JSON; None for NaN."""
    return None if np.isnan(value) else float(value)


def _add(layers: Sequence[dict[str, Any]], name: str, values: Sequence[float | None]) -> None:
    for layer, value in zip(layers, values, strict=True):
        layer[name] = value


@contextmanager
def _intervened(collector: Collector, interventions: tuple[str, ...]) -> Iterator[None]:
    """Run the model of a collector with interventions; see `mpdiag.analysis.interventions`."""
    adapter = collector.adapter
    collector.adapter = IntervenedAdapter(adapter, AnalysisOptions(intervene=interventions))
    try:
        yield
    finally:
        collector.adapter = adapter
