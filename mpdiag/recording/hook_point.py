"""Hook points: identity modules through which a model passes its named tensors."""

from torch import Tensor, nn


class HookPoint(nn.Module):
    """Return a tensor unchanged, so that forward hooks can read or replace it.

    A model calls it once per layer, or with a list of layers. If a hook returns a tensor, the model
    continues with it.

    Attributes:
        stride: of `mask_logits`: pixels of the padded input per cell of the mask grid.
            `mpdiag.LayerMonitor` reads it for models that pad a list of images themselves.
        sigmoid: of `class_logits`: they are (B, N, K) logits of a sigmoid per class, without
            no-object. Recordings have a logit 0 of no-object after them.
    """

    stride, sigmoid = 4, False  # also of a module that an earlier version has pickled

    def __init__(self, stride: int = 4, *, sigmoid: bool = False) -> None:
        super().__init__()
        self.stride, self.sigmoid = stride, sigmoid

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor
