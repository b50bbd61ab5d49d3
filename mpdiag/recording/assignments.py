"""Assignments of queries to GT by the matcher of a model that computes its own loss."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mpdiag.recording.hook_spec import HookSpec, ModuleCall


def dense_assignment(pairs: Sequence[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """Return (B, N): the GT index of each query, -1 for none.

    Args:
        pairs: matched query indices and their GT indices, for each image.
        like: (B, N, ...) predictions that were matched.
    """
    rows = torch.full(like.shape[:2], -1)
    for row, (queries, gt) in zip(rows, pairs, strict=True):
        row[queries.cpu()] = gt.cpu()
    return rows.to(like.device)


def matcher_hooks(matcher: nn.Module, num_layers: int, last_first: bool) -> dict[str, HookSpec]:
    """Return a hook for a transformers matcher, which the loss calls for each of `num_layers`.

    Without labels the matcher is not called. A pass that matches only some layers records nothing.
    `last_first`: the last layer is matched first.
    """

    def to_layers(matched: list[Tensor]) -> list[Tensor]:
        if len(matched) != num_layers:
            return []
        return [*matched[1:], matched[0]] if last_first else matched

    def read(call: ModuleCall) -> Tensor:
        return dense_assignment(call.output, call.argument(1, "class_queries_logits"))

    return {"assignment": HookSpec([matcher], None, read, to_layers=to_layers)}
