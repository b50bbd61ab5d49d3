"""Faults in the weights of a checkpoint."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from benchmarks.diagnosis.fault import choose
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.models.decoder import Decoder


def swap_classes(loaded: LoadedCheckpoint, pairs: float, generator: np.random.Generator) -> None:
    """Swap the rows of the class head of disjoint pairs of classes, as far as there are pairs."""
    classes = loaded.model.config.num_classes
    drawn = generator.permutation(classes)[: 2 * min(int(pairs), classes // 2)]
    rows = np.arange(classes + 1)
    for first, second in drawn.reshape(-1, 2):
        rows[[first, second]] = rows[[second, first]]
    _permute_rows(loaded.model.decoder.class_embed.weight, rows)
    _permute_rows(loaded.model.decoder.class_embed.bias, rows)


def scramble_class_head(
    loaded: LoadedCheckpoint, share: float, generator: np.random.Generator
) -> None:
    """Permute the weights of a share of the inputs of the class head among the classes.

    The row of no-object is kept.
    """
    weight = loaded.model.decoder.class_embed.weight
    classes = loaded.model.config.num_classes
    with torch.no_grad():
        for column in choose(generator, weight.shape[1], share):
            order = torch.from_numpy(generator.permutation(classes))
            weight[:classes, column] = weight[order, column]


def raise_no_object_bias(
    loaded: LoadedCheckpoint, amount: float, generator: np.random.Generator
) -> None:
    """Add `amount` to the bias of no-object."""
    with torch.no_grad():
        loaded.model.decoder.class_embed.bias[-1] += amount


def copy_queries(loaded: LoadedCheckpoint, share: float, generator: np.random.Generator) -> None:
    """Replace a share of the queries by copies of other queries."""
    decoder = loaded.model.decoder
    count = decoder.query_feat.num_embeddings
    replaced = choose(generator, count, share)
    kept = [query for query in range(count) if query not in replaced]
    rows = np.arange(count)
    rows[replaced] = generator.choice(kept, len(replaced))
    for weight in _query_weights(decoder):
        _permute_rows(weight, rows)


def remove_queries(loaded: LoadedCheckpoint, share: float, generator: np.random.Generator) -> None:
    """Remove a share of the queries."""
    model = loaded.model
    count = model.config.num_queries
    removed = choose(generator, count, share)
    kept = [query for query in range(count) if query not in removed]
    for embedding in (model.decoder.query_feat, model.decoder.query_embed):
        if embedding is not None:
            embedding.weight = torch.nn.Parameter(embedding.weight.detach()[kept])
            embedding.num_embeddings = len(kept)
    model.config = model.config.model_copy(update={"num_queries": len(kept)})


def remove_self_attention(
    loaded: LoadedCheckpoint, layers: float, generator: np.random.Generator
) -> None:
    """Set the output of self-attention to zero in the last decoder layers."""
    for layer in loaded.model.decoder.layers[-int(layers) :]:
        for parameter in layer.get_submodule("self_attn.out_proj").parameters():
            torch.nn.init.zeros_(parameter)


def noise_late_layers(
    loaded: LoadedCheckpoint, amount: float, generator: np.random.Generator
) -> None:
    """Add noise to the weights of the last third of the decoder layers.

    `amount` is its standard deviation, relative to that of the weight.
    """
    layers = loaded.model.decoder.layers
    _noise_layers(layers[-max(len(layers) // 3, 1) :], amount, generator)


def noise_early_layers(
    loaded: LoadedCheckpoint, amount: float, generator: np.random.Generator
) -> None:
    """Add noise to the weights of the first third of the decoder layers, as above."""
    layers = loaded.model.decoder.layers
    _noise_layers(layers[: max(len(layers) // 3, 1)], amount, generator)


def noise_mask_head(
    loaded: LoadedCheckpoint, amount: float, generator: np.random.Generator
) -> None:
    """Add noise to the last layer of the mask head; `amount` as for `noise_late_layers`."""
    last = loaded.model.decoder.mask_embed.layers[-1]
    _add_noise(last.get_parameter("weight"), amount, generator)


def _noise_layers(
    layers: Iterable[torch.nn.Module], amount: float, generator: np.random.Generator
) -> None:
    for layer in layers:
        for weight in layer.parameters():
            if weight.dim() == 2:
                _add_noise(weight, amount, generator)


def _query_weights(decoder: Decoder) -> list[Tensor]:
    embeddings = (decoder.query_feat, decoder.query_embed)
    return [embedding.weight for embedding in embeddings if embedding is not None]


def _permute_rows(weight: Tensor, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    with torch.no_grad():
        weight.copy_(weight[torch.from_numpy(rows)])


def _add_noise(weight: Tensor, amount: float, generator: np.random.Generator) -> None:
    noise = torch.from_numpy(generator.standard_normal(weight.shape)).to(weight)
    with torch.no_grad():
        weight += amount * weight.std() * noise
