"""Change chosen parts of a decoder at inference.

The paper attributes inconsistent predictions to misleading attention masks. An intervention tests
this, and what self-attention and single queries contribute, without training. Its text is one of

    attention=SOURCE:LAYERS[:QUERIES]   replace attention masks by that of SOURCE:
        gt        the mask of the GT that the query matches in the last layer of a baseline pass; a
                  query without a match keeps its own mask
        previous  the attention mask of the previous layer, resized to this layer's grid
        none      no mask: the query attends everywhere
    self-attention=none:LAYERS          queries do not attend to each other
    queries=none:QUERIES                these queries predict no object

As in the model, a cell of a resized mask is on if any part of it is on in the original, and a query
with an empty mask attends everywhere.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from mpdiag.analysis.adapter import LayerPredictions
from mpdiag.errors import ConfigError
from mpdiag.matching import Target
from mpdiag.models.mask_noise import downsample_masks
from mpdiag.printable import printable
from mpdiag.recording import InterventionPoints

InterventionKind = Literal["attention", "self-attention", "queries"]
AttentionSource = Literal["gt", "previous", "none"]

STRIDES = (32, 16, 8)  # of the feature maps of decoder layers
CERTAIN = 30.0  # logit of no-object of a query that predicts no object


@dataclass(frozen=True, slots=True)
class Intervention:
    """A change of the decoder.

    Attributes:
        source: the mask that replaces the attention mask; "none" for the other kinds.
        layers: decoder layers, 1..L; all for kind "queries".
        queries: indices of queries; None for all.
        kind: what changes.
    """

    source: AttentionSource
    layers: frozenset[int]
    queries: frozenset[int] | None
    kind: InterventionKind = "attention"

    @classmethod
    def parse(cls, text: str, num_layers: int, num_queries: int) -> "Intervention":
        """Parse `attention=gt:1-3`, `attention=none:2,5-7:0-9` or another kind.

        Numbers may be `all`.

        Raises:
            ConfigError: the text is invalid, or there is no such layer or query.
        """
        kind, _, rest = text.partition("=")
        source, _, numbers = rest.partition(":")
        first, _, second = numbers.partition(":")
        sources = get_args(AttentionSource) if kind == "attention" else ("none",)
        if (
            kind not in get_args(InterventionKind)
            or source not in sources
            or not first
            or (second and kind != "attention")
        ):
            raise ConfigError(
                f"--intervene {printable(text, 80)}: is invalid; give attention=SOURCE:LAYERS"
                "[:QUERIES] with source gt, previous or none, self-attention=none:LAYERS or "
                "queries=none:QUERIES, for example attention=gt:1-3 or attention=none:4:0-9,12"
            )
        if kind == "queries":
            layers, second = frozenset(range(1, num_layers + 1)), first
        else:
            layers = _numbers(text, first, 1, num_layers, "layers")
        if source == "previous" and 1 in layers:
            raise ConfigError(f"--intervene {text}: layer 1 has no previous layer; start with 2")
        queries = _numbers(text, second, 0, num_queries - 1, "queries") if second else None
        return cls(cast(AttentionSource, source), layers, queries, cast(InterventionKind, kind))


def _numbers(text: str, part: str, low: int, high: int, what: str) -> frozenset[int]:
    """Parse `all` or `1-3,7`."""
    if part == "all":
        return frozenset(range(low, high + 1))
    numbers: set[int] = set()
    for item in part.split(","):
        first, dash, last = item.partition("-")
        ends = (first, last if dash else first)
        if not all(end.isdecimal() and len(end) < 6 for end in ends) or not (
            low <= int(ends[0]) <= int(ends[1]) <= high
        ):
            raise ConfigError(
                f"--intervene {printable(text, 80)}: {printable(item, 40)} is out of range; give "
                f"{what} in {low}-{high}"
            )
        numbers.update(range(int(ends[0]), int(ends[1]) + 1))
    return frozenset(numbers)


@contextmanager
def intervene(
    model: nn.Module,
    points: InterventionPoints,
    interventions: Sequence[Intervention],
    size: tuple[int, int],
    targets: Sequence[Target],
    last: Tensor,
) -> Iterator[None]:
    """Change attention masks and self-attention in every forward pass inside the `with` block.

    Args:
        model: the model.
        points: its parts that change.
        interventions: applied in order; a later one overrides an earlier one.
        size: (height, width) of the padded images of the batch.
        targets: GT of the B images.
        last: (B, N) V^L of a baseline pass: GT index, or -1.
    """
    on_masks = [one for one in interventions if one.kind == "attention"]
    silent = {
        layer for one in interventions if one.kind == "self-attention" for layer in one.layers
    }
    with ExitStack() as stack:
        if on_masks:
            replacer = _Replacer(on_masks, size, targets, last)
            start = model.register_forward_pre_hook(lambda *_: replacer.start())
            for handle in (start, *points.hook_masks(replacer)):
                stack.callback(handle.remove)
        for layer, module in enumerate(points.self_attention, start=1):
            if layer in silent:
                stack.callback(module.register_forward_hook(_zero_output).remove)
        yield


def silence_queries(
    predictions: LayerPredictions, interventions: Sequence[Intervention]
) -> LayerPredictions:
    """Let the queries of interventions of kind "queries" predict no object in every layer.

    Their masks stay, and other queries still attend to them.
    """
    chosen = sorted(
        {q for one in interventions if one.kind == "queries" for q in one.queries or ()}
    )
    if not chosen:
        return predictions
    class_logits = predictions.class_logits.clone()
    class_logits[:, :, chosen] = -CERTAIN
    class_logits[:, :, chosen, -1] = CERTAIN
    return replace(predictions, class_logits=class_logits)


def _zero_output(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """Forward hook that sets the output, or the first output, to zero."""
    if isinstance(output, Tensor):
        return torch.zeros_like(output)
    return (torch.zeros_like(output[0]), *output[1:])


class _Replacer:
    """Gets the attention mask of each decoder layer in turn and returns its replacement."""

    def __init__(
        self,
        interventions: Sequence[Intervention],
        size: tuple[int, int],
        targets: Sequence[Target],
        last: Tensor,
    ) -> None:
        self._interventions = interventions
        self._size = size
        self._targets = targets
        self._last = last
        self.start()

    def start(self) -> None:
        """Prepare for a forward pass."""
        self._layer = 0
        self._previous: Tensor | None = None

    def __call__(self, visible: Tensor) -> Tensor:
        self._layer += 1
        grid = self._grid(visible.shape[-1])
        for intervention in self._interventions:
            if self._layer not in intervention.layers:
                continue
            replacement = self._replacement(intervention.source, visible, grid)
            if intervention.queries is not None:
                chosen = torch.zeros(visible.shape[1], dtype=torch.bool, device=visible.device)
                chosen[list(intervention.queries)] = True
                replacement = torch.where(chosen[:, None], replacement, visible)
            visible = replacement | ~replacement.any(-1, keepdim=True)
        self._previous = visible.unflatten(-1, grid)
        return visible

    def _replacement(
        self, source: AttentionSource, visible: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """Return the mask (B, N, cells) of `source`, in place of `visible`."""
        if source == "none":
            return torch.ones_like(visible)
        if source == "previous":
            assert self._previous is not None  # `parse` rejects layer 1
            return downsample_masks(self._previous, grid).flatten(2)
        images = []
        for own, target, gt in zip(visible, self._targets, self._last, strict=True):
            if len(target["labels"]):
                gt = gt.to(own.device)
                masks = downsample_masks(target["masks"], grid).flatten(1)[gt.clamp(min=0)]
                own = torch.where((gt >= 0)[:, None], masks, own)
            images.append(own)
        return torch.stack(images)

    def _grid(self, cells: int) -> tuple[int, int]:
        height, width = self._size
        grids = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
        for grid in grids:
            if grid[0] * grid[1] == cells:
                return grid
        raise ConfigError(
            f"--intervene: a layer attends to {cells} cells, which is no grid of stride "
            f"{', '.join(map(str, STRIDES))}; the model is not supported"
        )
