"""Names the layer, the queries and the image of a prediction with NaN or infinity."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.errors import NonFiniteError
from mpdiag.recording.uncopied_hook import UncopiedHook


class FiniteCheck:
    """Checks the predictions of a model before its matcher sees them.

    Libraries either fail in the matcher ("matrix contains invalid numeric entries") or replace such
    costs and train on. The check runs before every call of the matcher of the model's own
    criterion, and at measured steps on every recorded layer.
    """

    def __init__(self, model: nn.Module, order: Sequence[int | None]) -> None:
        """Attach to the matcher of a model, if it has one.

        Args:
            model: the model.
            order: the layers in the order of its calls in a forward pass, None for an unknown
                layer.
        """
        self._order = order
        self._calls = 0
        self._handles: list[Any] = []
        criterion = getattr(model, "criterion", None)
        matcher = getattr(criterion, "matcher", None)
        if isinstance(criterion, nn.Module) and isinstance(matcher, nn.Module):
            start, check = UncopiedHook(self._start), UncopiedHook(self._check_call)
            self._handles = [
                model.register_forward_pre_hook(start),
                matcher.register_forward_pre_hook(check, with_kwargs=True),
            ]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _start(self, *_: Any) -> None:
        self._calls = 0

    @torch.no_grad()
    def _check_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not module.training:
            return
        given = [*args, *kwargs.values()]
        given += [value for one in given if isinstance(one, dict) for value in one.values()]
        layer = self._order[self._calls % len(self._order)]
        self._calls += 1
        for tensor in given:
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim in (3, 4):
                check_finite(tensor, layer)


@torch.no_grad()
def check_finite(predictions: Tensor, layer: int | None) -> None:
    """Check the predictions of one layer, (B, N, ...); None is an unknown layer.

    Raises:
        NonFiniteError: a value is NaN or infinite; it names layer, number of queries and image.
    """
    finite = predictions.flatten(2).sum(-1, dtype=torch.float32).isfinite()
    if finite.all():
        return
    image = int((~finite).any(1).nonzero()[0])
    count = int((~finite[image]).sum())
    what = "mask" if predictions.ndim == 4 else "class"
    term = f"{what} prediction ({count} of {finite.shape[1]} queries)"
    raise NonFiniteError(term, layer, image)
