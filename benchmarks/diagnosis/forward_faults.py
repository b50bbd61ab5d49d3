"""Faults in preprocessing and in the forward pass, planted as forward hooks.

The weights stay those of the healthy model, so that a diagnosis can only find them by measuring.
"""

import dataclasses
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.diagnosis.fault import choose
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.models import Mask2Former, Mask2FormerOutput
from mpdiag.models.decoder import Decoder

# Mean and standard deviation of pixels in 0..255, for all channels or for each.
WRONG_STATISTICS: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((127.5,), (127.5,)),
    ((0.0,), (58.395, 57.12, 57.375)),
    ((0.0,), (255.0,)),
    ((103.53, 116.28, 123.675), (1.0,)),
    ((0.0,), (1.0,)),
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)


def kill_queries(loaded: LoadedCheckpoint, share: float, generator: np.random.Generator) -> None:
    """Let a share of the queries predict no-object with certainty in every layer."""
    dead = choose(generator, loaded.model.config.num_queries, share)

    def replace(layer: int, class_logits: Tensor) -> Tensor:
        certain = torch.zeros_like(class_logits)
        certain[..., -1] = 20
        return _replace_queries(class_logits, certain, dead)

    _replace_in_layers(loaded.model, "class_logits", 0, replace)


def empty_masks(loaded: LoadedCheckpoint, share: float, generator: np.random.Generator) -> None:
    """Empty the masks of a share of the queries in layers k..L, for a random k."""
    queries = choose(generator, loaded.model.config.num_queries, share)
    first = int(generator.integers(1, loaded.model.config.decoder_layers + 1))

    def replace_mask(layer: int, mask_logits: Tensor) -> Tensor:
        empty = -mask_logits.abs() - 1
        return _replace_queries(mask_logits, empty, queries) if layer >= first else mask_logits

    def replace_attention(layer: int, visible: Tensor) -> Tensor:  # an empty mask hides nothing
        everywhere = torch.ones_like(visible)
        return _replace_queries(visible, everywhere, queries) if layer > first else visible

    _replace_in_layers(loaded.model, "mask_logits", 0, replace_mask)
    _replace_in_layers(loaded.model, "attention_mask", 1, replace_attention)


def switch_masks(loaded: LoadedCheckpoint, share: float, generator: np.random.Generator) -> None:
    """Exchange the masks of a share of the queries in the last layer."""
    total, last = loaded.model.config.num_queries, loaded.model.config.decoder_layers
    queries = choose(generator, total, max(share, 2 / total))
    source = torch.arange(total)
    source[queries] = torch.from_numpy(np.roll(queries, 1))

    def replace(layer: int, mask_logits: Tensor) -> Tensor:
        return mask_logits[:, source] if layer == last else mask_logits

    _replace_in_layers(loaded.model, "mask_logits", 0, replace)


def shift_attention(
    loaded: LoadedCheckpoint, distance: float, generator: np.random.Generator
) -> None:
    """Shift the attention masks of layers 1 to 3, each query in its own direction.

    `distance` is relative to the image's side; a shift is at least one cell.
    """
    angles = generator.uniform(0, 2 * np.pi, loaded.model.config.num_queries)
    steps = np.stack([np.sin(angles), np.cos(angles)], 1)
    steps /= np.abs(steps).max(1, keepdims=True)
    grids: list[tuple[int, int]] = []

    def keep_grids(decoder: Decoder, inputs: tuple[Any, ...]) -> None:
        grids[:] = [(level.shape[-2], level.shape[-1]) for level in inputs[0]]

    def replace(layer: int, visible: Tensor) -> Tensor:
        if layer > 3:
            return visible
        rows, columns = grids[loaded.model.decoder.level_index(layer - 1)]
        cells = np.round(steps * max(distance * rows, 1)).astype(int)
        grid = visible.unflatten(-1, (rows, columns))
        shifted = [
            grid[:, query].roll((int(down), int(right)), (-2, -1))
            for query, (down, right) in enumerate(cells)
        ]
        return torch.stack(shifted, 1).flatten(2)

    loaded.model.decoder.register_forward_pre_hook(keep_grids)
    _replace_in_layers(loaded.model, "attention_mask", 1, replace)


def randomize_scores(
    loaded: LoadedCheckpoint, share: float, generator: np.random.Generator
) -> None:
    """Mix random numbers into the probability of an object; masks and classes stay."""
    phase = float(generator.uniform())

    def replace(layer: int, class_logits: Tensor) -> Tensor:
        classes = class_logits[..., :-1]
        probability = 1 - class_logits.softmax(-1)[..., -1]
        noise = (class_logits.double().sum(-1) * 1e3 + phase) % 1  # the same in every pass
        mixed = ((1 - share) * probability + share * noise.to(probability)).clamp(1e-6, 1 - 1e-6)
        no_object = classes.logsumexp(-1) + ((1 - mixed) / mixed).log()
        return torch.cat([classes, no_object[..., None]], -1)

    _replace_in_layers(loaded.model, "class_logits", 0, replace)


def swap_channels(loaded: LoadedCheckpoint, share: float, generator: np.random.Generator) -> None:
    """Read a share of the images as BGR."""

    def replace(pixels: Tensor) -> Tensor:
        drawn = (pixels.double().sum((1, 2, 3)) * 0.618) % 1  # the same in every pass
        return torch.where((drawn < share)[:, None, None, None], pixels.flip(1), pixels)

    _replace_pixels(loaded.model, replace)


def change_normalisation(
    loaded: LoadedCheckpoint, number: float, generator: np.random.Generator
) -> None:
    """Normalise with the mean and the standard deviation `number` of `WRONG_STATISTICS`."""
    mean, std = (
        torch.tensor(x, dtype=torch.float32)[:, None, None] for x in WRONG_STATISTICS[int(number)]
    )
    own_mean, own_std = loaded.model.get_buffer("mean"), loaded.model.get_buffer("std")
    _replace_pixels(loaded.model, lambda pixels: (pixels - mean) / std * own_std + own_mean)


def shrink_input(loaded: LoadedCheckpoint, scale: float, generator: np.random.Generator) -> None:
    """Resize images to `scale` times the shorter side that the model was trained with."""
    recipe = loaded.recipe
    if recipe is None:
        raise ValueError("the healthy model has no recipe, which holds its input size")
    crop = recipe.data.augment.crop
    side = recipe.data.short_side or (min(crop) if crop else TRAINED_SIDE)
    data = recipe.data.model_copy(update={"short_side": round(scale * side)})
    loaded.recipe = recipe.model_copy(update={"data": data})


def shift_masks(loaded: LoadedCheckpoint, cells: float, generator: np.random.Generator) -> None:
    """Shift all predicted masks by a number of cells in a random direction of the axes."""
    down, right = ((0, 1), (0, -1), (1, 0), (-1, 0))[int(generator.integers(4))]

    def replace(layer: int, mask_logits: Tensor) -> Tensor:
        rows, columns = mask_logits.shape[-2:]
        theta = torch.eye(2, 3)
        theta[0, 2], theta[1, 2] = -2 * right * cells / columns, -2 * down * cells / rows
        grid = F.affine_grid(theta[None], [1, 1, rows, columns], align_corners=False)
        grid = grid.expand(len(mask_logits), -1, -1, -1)
        return F.grid_sample(mask_logits, grid, padding_mode="border", align_corners=False)

    _replace_in_layers(loaded.model, "mask_logits", 0, replace)


def overflow(loaded: LoadedCheckpoint, share: float, generator: np.random.Generator) -> None:
    """Let the masks of a share of the queries overflow to NaN in the last two layers."""
    queries = choose(generator, loaded.model.config.num_queries, share)
    last = loaded.model.config.decoder_layers

    def replace(layer: int, mask_logits: Tensor) -> Tensor:
        overflown = torch.full_like(mask_logits, torch.nan)
        return (
            _replace_queries(mask_logits, overflown, queries) if layer > last - 2 else mask_logits
        )

    _replace_in_layers(loaded.model, "mask_logits", 0, replace)


def shrink_masks(loaded: LoadedCheckpoint, amount: float, generator: np.random.Generator) -> None:
    """Lower all mask logits by `amount`; attention masks stay."""
    _replace_in_layers(loaded.model, "mask_logits", 0, lambda layer, masks: masks - amount)


def ignore_small_objects(
    loaded: LoadedCheckpoint, amount: float, generator: np.random.Generator
) -> None:
    """Raise the logit of no-object by `amount` for masks below `SMALL_CELLS`, in every layer."""

    def suppress(decoder: Decoder, inputs: Any, output: Mask2FormerOutput) -> Mask2FormerOutput:
        predictions = output.matching
        small = (predictions.mask_logits > 0).sum((-2, -1)) < SMALL_CELLS
        logits = predictions.class_logits.clone()
        logits[..., -1] += amount * small
        changed = dataclasses.replace(predictions, class_logits=logits)
        return dataclasses.replace(output, matching=changed)

    loaded.model.decoder.register_forward_hook(suppress)


def drop_bits(loaded: LoadedCheckpoint, kept: float, generator: np.random.Generator) -> None:
    """Keep `kept` bits of the mantissa of the outputs of all modules with weights."""
    mask = -1 << (MANTISSA_BITS - int(kept))

    def truncate(module: Any, inputs: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return output
        return (output.contiguous().view(torch.int32) & mask).view(torch.float32)

    for module in loaded.model.modules():
        has_weights = next(module.parameters(recurse=False), None) is not None
        if has_weights and not isinstance(module, nn.Embedding):
            module.register_forward_hook(truncate)


MANTISSA_BITS = 23  # of float32
SMALL_CELLS = 20  # about half of the objects of the benchmark are smaller
TRAINED_SIDE = 96  # of images of the benchmark, which are neither resized nor cropped


def _replace_queries(tensor: Tensor, replacement: Tensor, queries: list[int]) -> Tensor:
    """Replace the rows of these queries in a (B, N, ...) tensor."""
    changed = tensor.clone()
    changed[:, queries] = replacement[:, queries]
    return changed


def _replace_in_layers(
    model: Mask2Former, name: str, first: int, replace: Callable[[int, Tensor], Tensor]
) -> None:
    """Replace the tensor of a hook point in every layer by `replace(layer, tensor)`.

    Args:
        model: the model.
        name: name of the hook point.
        first: layer of the first call in a forward pass.
        replace: returns the new tensor.
    """
    layers = count(first)

    def restart(decoder: Decoder, inputs: tuple[Any, ...]) -> None:
        nonlocal layers
        layers = count(first)

    model.decoder.register_forward_pre_hook(restart)
    getattr(model.decoder.hook_points, name).register_forward_hook(
        lambda point, inputs, tensor: replace(next(layers), tensor)
    )


def _replace_pixels(model: Mask2Former, replace: Callable[[Tensor], Tensor]) -> None:
    """Replace the pixels (B, 3, H, W) in 0..255 before they are normalised."""

    def normalised(backbone: Any, inputs: tuple[Tensor]) -> Tensor:
        mean, std = model.get_buffer("mean"), model.get_buffer("std")
        return (replace(inputs[0] * std + mean) - mean) / std

    model.backbone.register_forward_pre_hook(normalised)
