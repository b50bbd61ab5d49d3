"""Replace the attention masks of chosen decoder layers at inference.

The paper attributes inconsistent predictions to misleading attention masks. An intervention tests
this without training. Its text is `attention=SOURCE:LAYERS[:QUERIES]`, where SOURCE is the mask
within which queries attend:

    gt        the mask of the GT that the query matches in the last layer of a baseline pass; a
              query without a match keeps its own mask
    previous  the attention mask of the previous layer, resized to this layer's grid
    none      no mask: the query attends everywhere

As in the model, a cell of a resized mask is on if any part of it is on in the original, and a query
with an empty mask attends everywhere.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from mpdiag.errors import ConfigError
from mpdiag.matching import Target
from mpdiag.models import Mask2Former
from mpdiag.models.mask_noise import downsample_masks
from mpdiag.untrusted import printable

AttentionSource = Literal["gt", "previous", "none"]

STRIDES = (32, 16, 8)  # of the feature maps of decoder layers


@dataclass(frozen=True, slots=True)
class Intervention:
    """A replacement of attention masks.

    Attributes:
        source: the mask that replaces the attention mask.
        layers: decoder layers, 1..L.
        queries: indices of queries; None for all.
    """

    source: AttentionSource
    layers: frozenset[int]
    queries: frozenset[int] | None

    @classmethod
    def parse(cls, text: str, num_layers: int, num_queries: int) -> "Intervention":
        """Parse `attention=gt:1-3` or `attention=none:2,5-7:0-9`; numbers may be `all`.

        Raises:
            ConfigError: the text is invalid, or there is no such layer or query.
        """
        kind, _, rest = text.partition("=")
        source, _, numbers = rest.partition(":")
        layers, _, queries = numbers.partition(":")
        if kind != "attention" or source not in get_args(AttentionSource) or not layers:
            raise ConfigError(
                f"--intervene {printable(text, 80)}: is invalid; give a source (gt, previous or "
                "none), layers and queries if not all, for example attention=gt:1-3 or "
                "attention=none:4:0-9,12"
            )
        chosen = _numbers(text, layers, 1, num_layers, "layers")
        if source == "previous" and 1 in chosen:
            raise ConfigError(f"--intervene {text}: layer 1 has no previous layer; start with 2")
        chosen_queries = _numbers(text, queries, 0, num_queries - 1, "queries") if queries else None
        return cls(cast(AttentionSource, source), chosen, chosen_queries)


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
    model: Mask2Former,
    interventions: Sequence[Intervention],
    size: tuple[int, int],
    targets: Sequence[Target],
    last: Tensor,
) -> Iterator[None]:
    """Replace attention masks in every forward pass inside the `with` block.

    Args:
        model: the model; hooks on its hook point of attention masks replace them.
        interventions: applied in order; a later one overrides an earlier one.
        size: (height, width) of the padded images of the batch.
        targets: GT of the B images.
        last: (B, N) V^L of a baseline pass: GT index, or -1.
    """
    replacer = _Replacer(interventions, size, targets, last)
    points = model.decoder.hook_points
    handles = [
        model.register_forward_pre_hook(lambda *_: replacer.start()),
        points.attention_mask.register_forward_hook(replacer),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Replacer:
    """Forward hook that gets the attention mask of each decoder layer in turn and replaces it."""

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

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], visible: Tensor) -> Tensor:
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
        grids = [(height // stride, width // stride) for stride in STRIDES]
        return next(grid for grid in grids if grid[0] * grid[1] == cells)
