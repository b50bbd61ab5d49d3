"""Losses of each layer, read from the criterion of a model."""

import re
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
    criterion that is called once per layer, as that of EoMT, returns keys without a number.
    """

    def __init__(self, criterion: nn.Module, num_layers: int, training: bool) -> None:
        """Attach to the criterion of a model with `num_layers` predictions (L + 1).

        `training`: read its calls in training mode, otherwise those in evaluation mode.
        """
        self._num_layers, self._training = num_layers, training
        self._calls = 0
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._numbered = False
        self._handle = criterion.register_forward_hook(UncopiedHook(self._read))

    def remove(self) -> None:
        """Remove the hook."""
        self._handle.remove()

    def values(self, passes: int) -> dict[str, float]:
        """Return `NAME/LAYER` -> mean over the forward passes, whose number is given."""
        if self._numbered or self._calls > passes:
            sums = self._sums
        else:  # a criterion without auxiliary losses knows the last layer alone
            last, sums = self._num_layers - 1, {}
            for (name, _), total in self._sums.items():
                sums[name, last] = total + sums.get((name, last), 0.0)
        if not sums or not passes:
            return {}
        values = (torch.stack(list(sums.values())) / passes).tolist()  # the only transfer
        return {f"{name}/{layer}": value for (name, layer), value in zip(sums, values, strict=True)}

    def _read(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training != self._training or not isinstance(output, Mapping):
            return
        for key, loss in self._by_layer(output):
            # A copy, because models multiply the losses by their weights in place.
            self._sums[key] = loss.detach().float() + self._sums.get(key, 0.0)
        self._calls += 1

    def _by_layer(self, output: Mapping[str, Any]) -> Iterator[tuple[tuple[str, int], Tensor]]:
        parsed = {key: match for key in output if (match := _KEY.fullmatch(key))}
        auxiliary = {match[1] for match in parsed.values() if match[2]}
        last = self._num_layers - 1
        self._numbered |= bool(auxiliary)
        if not auxiliary:  # one call per layer
            for key in parsed:
                yield (key, self._calls % self._num_layers), output[key]
            return
        numbers = [int(match[2]) for match in parsed.values() if match[2]]
        first = last - 1 - max(numbers)  # 1 if the criterion numbers layers 1..L - 1 from 0
        for key, match in parsed.items():
            if match[2]:
                yield (match[1], int(match[2]) + first), output[key]
            elif match[1] in auxiliary:
                yield (match[1], last), output[key]
            elif first and key.removesuffix(_PROPOSALS) in auxiliary:
                yield (key.removesuffix(_PROPOSALS), 0), output[key]
