"""What a forward pass did, by canonical names."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpdiag.errors import RecordingError
from mpdiag.recording.names import CANONICAL


class Recording:
    """What one forward pass did; a later pass in the same `with` replaces it.

    Attributes are the canonical names (`mpdiag.recording.names()`): `mask_logits` is
    (L + 1, B, N, h, w), `class_logits` (L + 1, B, N, K + 1). Names whose size differs from layer
    to layer (`attention_mask`) come as a list with one tensor for each layer. Tensors are
    detached; one that no pass has produced raises RecordingError.

    `family` is the name of the family that read the model; `notes` are sentences about it that
    whoever reads the numbers must know.
    """

    def __init__(self, family: str, notes: Sequence[str], wanted: Sequence[str]) -> None:
        self.family = family
        self.notes = tuple(notes)
        self._layers: dict[str, list[Tensor]] = {name: [] for name in wanted}

    def layers(self, name: str) -> list[Tensor]:
        """The tensors called `name`, one for each layer in which the model made one."""
        if name not in self._layers:
            raise RecordingError(
                f"{name} was not recorded: not asked for, or {self.family} has none"
            )
        if not self._layers[name]:
            raise RecordingError(
                f"{name} was not recorded: no forward pass has produced it, or none has ended"
            )
        return self._layers[name]

    def __getattr__(self, name: str) -> Any:
        if name not in CANONICAL:
            raise AttributeError(f"a recording has no {name!r}; it has {', '.join(CANONICAL)}")
        layers = self.layers(name)
        if any(layer.shape != layers[0].shape for layer in layers):
            return layers
        return _joined(layers)

    def __contains__(self, name: str) -> bool:
        return bool(self._layers.get(name))

    def __repr__(self) -> str:
        shapes = [
            f"{name}: {len(layers)} x {tuple(layers[0].shape)}"
            for name, layers in self._layers.items()
            if layers
        ]
        return f"Recording({self.family}; {'; '.join(shapes) or 'nothing yet'})"

    def _replace(self, layers: dict[str, list[Tensor]]) -> None:
        self._layers.update({name: layers.get(name, []) for name in self._layers})


def _joined(layers: list[Tensor]) -> Tensor:
    """Layers of one shape as one tensor; not copied where they are slices of one, as ours are."""
    first = layers[0]
    step = layers[-1].storage_offset() - first.storage_offset()
    step = step // max(len(layers) - 1, 1)
    evenly = all(
        layer.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and layer.storage_offset() == first.storage_offset() + index * step
        and layer.stride() == first.stride()
        for index, layer in enumerate(layers)
    )
    if not evenly or step <= 0:
        return torch.stack(layers)
    return first.as_strided((len(layers), *first.shape), (step, *first.stride()))
