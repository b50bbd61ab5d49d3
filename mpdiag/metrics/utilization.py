"""Util^i: share of GT matched by the same query as in the last layer (MP-Former, Eq. 3)."""

from torch import Tensor


def utilization(assignment: Tensor, num_gt: int | None = None) -> Tensor:
    """Return Util of layers 0..L of one image.

    Util^i = (1 / O) * number of queries n with V_n^i = V_n^L != -1.

    Args:
        assignment: (L + 1, N) int, V^i: GT index or -1.
        num_gt: O; defaults to the number of GT matched in the last layer, which is smaller only
            if GT outnumber the queries.

    Returns:
        (L + 1,) float64; NaN without GT.
    """
    last = assignment[-1]
    kept = ((assignment == last) & (last >= 0)).sum(-1)
    return kept.double() / (int((last >= 0).sum()) if num_gt is None else num_gt)


def query_utilization(assignment: Tensor, num_gt: int | None = None) -> Tensor:
    """Return Util^1..Util^L of one image, (L,) float64; `utilization` also gives that of M^0."""
    return utilization(assignment, num_gt)[1:]
