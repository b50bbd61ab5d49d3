"""Parts of a model's decoder that an intervention replaces or switches off."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

ReplaceMask = Callable[[Tensor], Tensor]
"""Function from the attention mask of a decoder layer to the mask to use.

Both are bool (B, N, cells), True where a query may attend.
"""


@dataclass(frozen=True, slots=True)
class InterventionPoints:
    """Parts of a decoder that interventions change.

    Attributes:
        num_queries: N.
        num_layers: L.
        hook_masks: registers hooks that replace the attention masks of a forward pass. Its argument
            is called for decoder layers 1..L in order.
        self_attention: self-attention of decoder layers 1..L. A layer adds the output of the
            module, or its first output, to the queries.
    """

    num_queries: int
    num_layers: int
    hook_masks: Callable[[ReplaceMask], list[RemovableHandle]]
    self_attention: Sequence[nn.Module]


def hook_attention_masks(
    modules: Sequence[nn.Module], num_heads: int, name: str = "attn_mask"
) -> Callable[[ReplaceMask], list[RemovableHandle]]:
    """Return `InterventionPoints.hook_masks` for modules that get their masks as an argument.

    Args:
        modules: cross-attention of decoder layers 1..L.
        num_heads: number of heads.
        name: keyword argument of the mask, bool (B * heads, N, cells), True where a query may not
            attend, and equal for all heads.
    """

    def register(replace: ReplaceMask) -> list[RemovableHandle]:
        def change(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            hidden: Tensor = kwargs[name]
            visible = replace(~hidden.bool()[::num_heads])
            changed = torch.repeat_interleave(~visible, num_heads, 0)
            return args, kwargs | {name: changed.to(hidden.dtype)}

        return [module.register_forward_pre_hook(change, with_kwargs=True) for module in modules]

    return register
