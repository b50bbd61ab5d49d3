"""Hook points: identity modules through which a model passes its named tensors."""

from torch import Tensor, nn


class HookPoint(nn.Module):
    """Return a tensor unchanged, so that forward hooks can read or replace it.

    A model calls it once per layer. If a hook returns a tensor, the model continues with it.
    """

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor
