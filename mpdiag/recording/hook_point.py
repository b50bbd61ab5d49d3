"""Hook points: identity modules through which a model passes its named tensors."""

from torch import Tensor, nn


class HookPoint(nn.Module):
    """Return a tensor unchanged, so that forward hooks can read or replace it.

    A model calls it once per layer, or with a list of layers. If a hook returns a tensor, the model
    continues with it.

    Attributes:
        stride: of `mask_logits`: pixels of the padded input per cell of the mask grid.
            `mpdiag.LayerMonitor` reads it for models that pad a list of images themselves.
    """

    stride = 4  # also of a module that an earlier version has pickled

    def __init__(self, stride: int = 4) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor
