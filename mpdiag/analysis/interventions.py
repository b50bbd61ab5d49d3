"""Change what queries attend to in chosen layers of a model at inference.

The paper holds that misleading masks cost consistency and AP. Here a model is shown other masks,
without training: `attention=SOURCE:LAYERS[:QUERIES]`, where SOURCE is what queries attend within:

    gt        the mask of the GT that it matches in the last layer of an undisturbed pass; a query
              that matches none there keeps its own mask
    previous  what it attended within in the layer before, brought to this layer's resolution
    none      no mask: it sees everything

As in the model, a mask of a finer grid is brought to a coarser one so that a cell that it touches
is on, and a query whose mask is empty sees everything.
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
from mpdiag.models.mask_noise import touch

Source = Literal["gt", "previous", "none"]

STRIDES = (32, 16, 8)  # of the maps that decoder layers attend to


@dataclass(frozen=True, slots=True)
class Intervention:
    """Attention masks of some decoder layers (1..L) replaced for some queries, or all if None."""

    source: Source
    layers: frozenset[int]
    queries: frozenset[int] | None

    @classmethod
    def parse(cls, text: str, num_layers: int, num_queries: int) -> "Intervention":
        """From `attention=gt:1-3` or `attention=none:2,5-7:0-9`; numbers may be `all`.

        Raises ConfigError where the text is none, or names a layer or query that is not there.
        """
        kind, _, rest = text.partition("=")
        source, _, numbers = rest.partition(":")
        layers, _, queries = numbers.partition(":")
        if kind != "attention" or source not in get_args(Source) or not layers:
            raise ConfigError(
                f"--intervene {text}: give attention=gt, previous or none, then layers and queries "
                "if not all, as attention=gt:1-3 or attention=none:4:0-9,12"
            )
        chosen = _numbers(text, layers, 1, num_layers, "layers")
        if source == "previous" and 1 in chosen:
            raise ConfigError(f"--intervene {text}: layer 1 has no layer before; begin with 2")
        whom = _numbers(text, queries, 0, num_queries - 1, "queries") if queries else None
        return cls(cast(Source, source), chosen, whom)


def _numbers(text: str, part: str, low: int, high: int, what: str) -> frozenset[int]:
    """The numbers of `all` or of `1-3,7`."""
    if part == "all":
        return frozenset(range(low, high + 1))
    found: set[int] = set()
    for item in part.split(","):
        first, dash, last = item.partition("-")
        ends = (first, last if dash else first)
        if not all(end.isdecimal() for end in ends) or not (
            low <= int(ends[0]) <= int(ends[1]) <= high
        ):
            raise ConfigError(f"--intervene {text}: {item} names no {what}, which are {low}-{high}")
        found.update(range(int(ends[0]), int(ends[1]) + 1))
    return frozenset(found)


@contextmanager
def intervene(
    model: Mask2Former,
    interventions: Sequence[Intervention],
    size: tuple[int, int],
    targets: Sequence[Target],
    last: Tensor,
) -> Iterator[None]:
    """Every forward pass inside the `with` is disturbed; the hooks are gone afterwards.

    Args:
        model: ours; its attention masks pass a hook point, which replaces them.
        interventions: in order; a later one overrules an earlier one.
        size: (height, width) of the padded images of the batch.
        targets: its B images' GT.
        last: (B, N) V^L of an undisturbed pass: GT index, or -1.
    """
    replacer = _Replacer(interventions, size, targets, last)
    points = model.decoder.points
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
    """The hook: sees the attention mask of each decoder layer in turn and gives another."""

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
        """A new pass begins."""
        self._layer = 0
        self._before: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], visible: Tensor) -> Tensor:
        self._layer += 1
        grid = self._grid(visible.shape[-1])
        for intervention in self._interventions:
            if self._layer not in intervention.layers:
                continue
            other = self._other(intervention.source, visible, grid)
            if intervention.queries is not None:
                chosen = torch.zeros(visible.shape[1], dtype=torch.bool, device=visible.device)
                chosen[list(intervention.queries)] = True
                other = torch.where(chosen[:, None], other, visible)
            visible = other | ~other.any(-1, keepdim=True)
        self._before = visible.unflatten(-1, grid)
        return visible

    def _other(self, source: Source, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, cells) that queries see in place of `visible`."""
        if source == "none":
            return torch.ones_like(visible)
        if source == "previous":
            assert self._before is not None  # refused when it was parsed
            return touch(self._before, grid).flatten(2)
        images = []
        for own, target, gt in zip(visible, self._targets, self._last, strict=True):
            if len(target["labels"]):
                gt = gt.to(own.device)
                masks = touch(target["masks"], grid).flatten(1)[gt.clamp(min=0)]
                own = torch.where((gt >= 0)[:, None], masks, own)
            images.append(own)
        return torch.stack(images)

    def _grid(self, cells: int) -> tuple[int, int]:
        height, width = self._size
        grids = [(height // stride, width // stride) for stride in STRIDES]
        return next(grid for grid in grids if grid[0] * grid[1] == cells)
