"""Losses of each layer, read from the criterion of a model."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.recording.uncopied_hook import UncopiedHook

_KEY = re.compile(r"(loss_[a-z_]*[a-z])(?:_(\d+))?")
_PROPOSALS = "_enc"


def find_criterion(model: nn.Module) -> nn.Module | None:
    """Return the module called `criterion` in a model, as the libraries name it; None without."""
    found = [x for path, x in model.named_modules() if path.rpartition(".")[2] == "criterion"]
    return found[0] if len(found) == 1 else None


class LayerLosses:
    """Means of the losses that a criterion returns, before they are multiplied by weights.

    The keys are those of DETR and its descendants: `loss_mask` is that of the last layer,
    `loss_mask_3` that of an earlier one, `loss_mask_enc` that of the encoder's proposals. A
    criterion that is called once per layer, as that of EoMT, returns keys without a number. If it
    is called for fewer layers, they are the last ones.

    Attributes:
        is_readable: False if the criterion has returned anything else.
    """

    def __init__(self, criterion: nn.Module, num_layers: int) -> None:
        """Attach to the criterion of a model with `num_layers` predictions (L + 1)."""
        self._num_layers = num_layers
        self._in_pass = False
        self._calls: list[dict[str, Tensor]] = []  # of the current pass
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._counts: Counter[tuple[str, int]] = Counter()
        self.is_readable = True
        self._handle = criterion.register_forward_hook(UncopiedHook(self._read))

    def remove(self) -> None:
        """Remove the hook."""
        self._handle.remove()

    def begin_pass(self) -> None:
        """Read the calls of the criterion for the forward pass that begins, until `end_pass`."""
        self._in_pass = True

    def end_pass(self) -> None:
        """Read no further calls."""
        self._in_pass = False
        for key, loss in self._by_layer():
            self._sums[key] = loss + self._sums.get(key, 0.0)
            self._counts[key] += 1
        self._calls = []

    def values(self) -> dict[str, float]:
        """Return `NAME/LAYER` -> mean over the forward passes with this loss."""
        self.end_pass()
        means = [total / self._counts[key] for key, total in self._sums.items()]
        values = torch.stack(means).tolist() if means else []  # the only transfer
        names = (f"{name}/{layer}" for name, layer in self._sums)
        return dict(zip(names, values, strict=True))

    def _read(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not self._in_pass:
            return
        items = output.items() if isinstance(output, Mapping) else ()
        # Copies, because models multiply the losses by their weights in place.
        losses = {
            key: value.detach().to(torch.float32, copy=True)
            for key, value in items
            if isinstance(value, Tensor) and _KEY.fullmatch(key)
        }
        if losses:
            self._calls.append(losses)
        else:
            self.is_readable = False

    def _by_layer(self) -> Iterator[tuple[tuple[str, int], Tensor]]:
        """Return the losses of the current pass by name and layer."""
        for number, losses in enumerate(self._calls):
            matches = {key: match for key in losses if (match := _KEY.fullmatch(key))}
            if any(match[2] for match in matches.values()):
                yield from self._by_number(losses, matches)
            else:  # one call per layer
                layer = (self._num_layers - len(self._calls) + number) % self._num_layers
                for key in losses:
                    yield (key, layer), losses[key]

    def _by_number(
        self, losses: Mapping[str, Tensor], matches: Mapping[str, re.Match[str]]
    ) -> Iterator[tuple[tuple[str, int], Tensor]]:
        auxiliary = {match[1] for match in matches.values() if match[2]}
        last = self._num_layers - 1
        numbers = [int(match[2]) for match in matches.values() if match[2]]
        first = last - 1 - max(numbers)  # 1 if the criterion numbers layers 1..L - 1 from 0
        for key, match in matches.items():
            if match[2]:
                yield (match[1], int(match[2]) + first), losses[key]
            elif match[1] in auxiliary:
                yield (match[1], last), losses[key]
            elif first and key.removesuffix(_PROPOSALS) in auxiliary:
                yield (key.removesuffix(_PROPOSALS), 0), losses[key]
