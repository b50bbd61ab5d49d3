"""What a model matches itself where its loss is computed inside it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mpdiag.recording.tap import Call, Tap


def assignment(pairs: Sequence[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """(B, N) GT of each query, -1 for none, from each image's matched queries and their GT.

    `like` is a (B, N, ...) tensor of the predictions that were matched.
    """
    rows = torch.full(like.shape[:2], -1)
    for row, (queries, gt) in zip(rows, pairs, strict=True):
        row[queries.cpu()] = gt.cpu()
    return rows.to(like.device)


def matching_taps(matcher: nn.Module, layers: int, last_first: bool) -> dict[str, Tap]:
    """A tap for one of transformers' matchers, which its loss calls for each of `layers` layers.

    Without labels it is not called; a pass that matches some layers only has no assignment.
    """

    def gather(matched: list[Tensor]) -> list[Tensor]:
        if len(matched) != layers:
            return []
        return [*matched[1:], matched[0]] if last_first else matched

    def read(call: Call) -> Tensor:
        return assignment(call.output, call.argument(1, "class_queries_logits"))

    return {"assignment": Tap([matcher], None, read, gather=gather)}
