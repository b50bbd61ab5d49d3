"""Changes to a model and its input that a remedy would make, for the time of a `with` block."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.analysis.adapter import ModelAdapter
from mpdiag.data import Sample
from mpdiag.data.transforms import resize
from mpdiag.models import Mask2Former

Handles = list[torch.utils.hooks.RemovableHandle]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and standard deviation of the channels of pixels in 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes to the forward pass; the default changes nothing.

    Attributes:
        swap_channels: exchange red and blue.
        normalisation: what the backbone gets, whatever the model does.
        scale: size of the input relative to the model's; None for the size of the image file.
        attention_from_masks: layers whose attention masks are computed anew from the predicted
            masks of the layer before.
        previous_attention: layers that use the attention masks of the layer before.
        skipped_layers: decoder layers that return their input.
        float32_modules: names of modules that compute their output again in float32.
        rounded: type that the outputs of modules with weights are rounded to; None for none.
        flip: flip images and GT left to right.
        shift: rows and columns of the prediction grid by which masks are moved.
        deblurred: whether the blur of bilinear sampling by `shift` is undone as well.
        mask_bias: what is added to mask logits.
    """

    swap_channels: bool = False
    normalisation: Normalisation | None = None
    scale: float | None = 1.0
    attention_from_masks: frozenset[int] = frozenset()
    previous_attention: frozenset[int] = frozenset()
    skipped_layers: frozenset[int] = frozenset()
    float32_modules: frozenset[str] = frozenset()
    rounded: torch.dtype | None = None
    flip: bool = False
    shift: tuple[float, float] = (0.0, 0.0)
    deblurred: bool = False
    mask_bias: float = 0.0


def merge(state: Changes, more: Changes) -> Changes:
    """Return the changes of both; those of `more` win."""
    default = Changes()
    new = {
        name: getattr(more, name)
        for name in Changes.__dataclass_fields__
        if getattr(more, name) != getattr(default, name)
    }
    return replace(state, **new)


@contextmanager
def apply_changes(adapter: ModelAdapter, changes: Changes) -> Iterator[None]:
    """Apply changes to the model of an adapter.

    `flip`, `shift` and `mask_bias` are applied to images and predictions, not here.
    """
    with ExitStack() as stack:
        if changes.scale != 1:
            stack.enter_context(_scaled(adapter, changes.scale))
        module = adapter.module
        handles = [
            module.get_submodule(name).register_forward_hook(_compute_in_float32, with_kwargs=True)
            for name in changes.float32_modules
        ]
        if changes.rounded is not None:
            handles += _rounding_hooks(module, changes.rounded)
        if isinstance(module, Mask2Former):
            handles += _input_hooks(module, changes) + _attention_hooks(module, changes)
            handles += [
                module.decoder.layers[layer - 1].register_forward_hook(_return_input)
                for layer in changes.skipped_layers
            ]
        for handle in handles:
            stack.callback(handle.remove)
        yield


def weighted_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules with float32 weights of their own by name, without embeddings."""
    return {
        name: module
        for name, module in model.named_modules()
        if (weights := list(module.parameters(recurse=False)))
        and all(weight.dtype == torch.float32 for weight in weights)
        and not isinstance(module, nn.Embedding)
    }


def _rounding_hooks(model: nn.Module, dtype: torch.dtype) -> Handles:
    def round_output(module: Any, args: Any, output: Any) -> Any:
        is_float = isinstance(output, Tensor) and output.is_floating_point()
        return output.to(dtype).to(output.dtype) if is_float else output

    return [
        module.register_forward_hook(round_output) for module in weighted_modules(model).values()
    ]


def _return_input(module: Any, args: tuple[Any, ...], output: Tensor) -> Any:
    return args[0]


def _compute_in_float32(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Any:
    """Compute the output of a module again in float32, without autocast and without its hooks."""

    def cast(value: Any) -> Any:
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        return value.float() if is_float else value

    device = next(module.parameters()).device.type
    with torch.autocast(device, enabled=False):
        return module.forward(*map(cast, args), **{k: cast(v) for k, v in kwargs.items()})


def can_change_input(adapter: ModelAdapter) -> bool:
    """Return whether channels, normalisation, attention masks and layers can be changed."""
    return isinstance(adapter.module, Mask2Former)


def can_change_scale(adapter: ModelAdapter) -> bool:
    """Return whether the input size can be changed."""
    return hasattr(adapter, "resize")


@contextmanager
def _scaled(adapter: Any, scale: float | None) -> Iterator[None]:
    own: Callable[[Sample], Sample] | None = adapter.resize

    def scaled(sample: Sample) -> Sample:
        if scale is None:
            return sample
        height, width = sample.image.shape[-2:]
        if own is not None:
            height, width = own.output_size(height, width)  # type: ignore[attr-defined]
        size = max(round(height * scale), 1), max(round(width * scale), 1)
        return resize(sample, size)

    adapter.resize = scaled
    try:
        yield
    finally:
        adapter.resize = own


def _input_hooks(model: Mask2Former, changes: Changes) -> Handles:
    """Change what the backbone gets, after all other hooks that were there before."""
    raw: list[Tensor] = []
    mean, std = model.get_buffer("mean"), model.get_buffer("std")

    def keep_pixels(module: Any, args: tuple[Any, ...]) -> None:
        pixels = model.preprocess(args[0])
        raw[:] = [pixels]

    def normalise(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        assert changes.normalisation is not None
        new_mean, new_std = (
            torch.tensor(x, dtype=mean.dtype, device=mean.device)[:, None, None]
            for x in (changes.normalisation.mean, changes.normalisation.std)
        )
        padding = raw[0] == 0
        return (((raw[0] * std + mean - new_mean) / new_std).masked_fill(padding, 0),)

    def swap(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        pixels = (args[0] * std + mean).flip(1)
        return ((pixels - mean) / std,)

    handles: Handles = []
    if changes.normalisation is not None:
        handles.append(model.register_forward_pre_hook(keep_pixels))
        handles.append(model.backbone.register_forward_pre_hook(normalise))
    if changes.swap_channels:
        handles.append(model.backbone.register_forward_pre_hook(swap))
    return handles


def _attention_hooks(model: Mask2Former, changes: Changes) -> Handles:
    """Replace attention masks, after all other hooks that were there before."""
    if not changes.attention_from_masks and not changes.previous_attention:
        return []
    decoder = model.decoder
    layer = 0
    coarse: list[Tensor] = []
    embed: list[Tensor] = []
    before: list[Tensor] = []

    def start(module: Any, args: tuple[Any, ...]) -> None:
        nonlocal layer
        layer = 0
        levels, features = args[0], args[1]
        coarse[:] = [
            F.interpolate(features, size=x.shape[-2:], mode="bilinear", align_corners=False)
            for x in levels
        ]

    def keep(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
        embed[:] = [output]

    def replace(module: Any, args: tuple[Any, ...], visible: Tensor) -> Tensor:
        nonlocal layer
        layer += 1
        features = coarse[decoder.level_index(layer - 1)]
        if layer in changes.attention_from_masks:
            visible = torch.einsum("bnc,bchw->bnhw", embed[0], features).flatten(2) >= 0
        elif layer in changes.previous_attention and before:
            size = features.shape[-2:]
            visible = F.adaptive_max_pool2d(before[0].float(), size).bool().flatten(2)
        visible = visible | ~visible.any(-1, keepdim=True)
        before[:] = [visible.unflatten(-1, features.shape[-2:])]
        return visible

    return [
        decoder.register_forward_pre_hook(start),
        decoder.mask_embed.register_forward_hook(keep),
        decoder.hook_points.attention_mask.register_forward_hook(replace),
    ]
