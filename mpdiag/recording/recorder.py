"""The recorder: a context manager that hooks a model and cleans up behind itself."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.errors import RecordingError
from mpdiag.recording.names import CANONICAL, names
from mpdiag.recording.points import HookPoint


class Recording:
    """What one forward pass did; a later pass in the same `with` replaces it.

    Attributes are the canonical names (`mpdiag.recording.names()`): `mask_logits` is
    (L + 1, B, N, h, w), `class_logits` (L + 1, B, N, K + 1). Names whose size differs from layer
    to layer (`attention_mask`) come as a list with one tensor for each layer. Tensors are
    detached; one that the pass did not produce raises RecordingError.
    """

    def __init__(self, wanted: Sequence[str]) -> None:
        self._layers: dict[str, list[Tensor]] = {name: [] for name in wanted}

    def layers(self, name: str) -> list[Tensor]:
        """The tensors called `name`, one for each layer in which the model made one."""
        if not self._layers.get(name):
            why = "no forward pass has produced it" if name in self._layers else "not asked for"
            raise RecordingError(f"{name} was not recorded: {why}")
        return self._layers[name]

    def __getattr__(self, name: str) -> Any:
        if name not in CANONICAL:
            raise AttributeError(f"a recording has no {name!r}; it has {', '.join(CANONICAL)}")
        layers = self.layers(name)
        if any(layer.shape != layers[0].shape for layer in layers):
            return layers
        return torch.stack(layers)

    def __contains__(self, name: str) -> bool:
        return bool(self._layers.get(name))

    def __repr__(self) -> str:
        shapes = [
            f"{name}: {len(layers)} x {tuple(layers[0].shape)}"
            for name, layers in self._layers.items()
            if layers
        ]
        return f"Recording({'; '.join(shapes) or 'nothing yet'})"

    def _clear(self) -> None:
        for layers in self._layers.values():
            layers.clear()


@contextmanager
def record(model: nn.Module, only: Sequence[str] | None = None) -> Iterator[Recording]:
    """Record every forward pass of `model` inside the `with`; all hooks are gone afterwards.

    Args:
        model: a model with hook points (our Mask2Former, or one of your own that sends its
            tensors through `HookPoint` modules with canonical names).
        only: names or shell patterns; everything if None.

    Raises:
        RecordingError: the model has no hook point of a wanted name.
    """
    points = {
        path.rpartition(".")[2]: module
        for path, module in model.named_modules()
        if isinstance(module, HookPoint)
    }
    if not points:
        raise RecordingError(
            f"{type(model).__name__} has no hook points: known is mpdiag's own Mask2Former, and "
            "any model that sends its tensors through mpdiag.recording.HookPoint modules"
        )
    wanted = [name for name in names(only) if name in points]
    recording = Recording(wanted)
    handles = [model.register_forward_pre_hook(lambda *_: recording._clear())]
    try:
        for name in wanted:
            handles.append(points[name].register_forward_hook(_keep(recording._layers[name])))
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def _keep(layers: list[Tensor]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        layers.append(output.detach())

    return hook
