"""How often each query matches a GT over the data set, and how unequal that is."""

from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt


def query_use(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Return how the matches of the last layer are distributed over the N queries.

    - `matches`: for each query 0..N-1, the number of images in which it matches a GT.
    - `dead`: number of queries that never match.
    - `gini`: Gini coefficient of `matches`, 0 if all are equal and near 1 if one query has all
      matches; None without a match.

    This describes the matching part only. In the MP part, query n is the n-th GT of the image.
    """
    counts = connection.execute("""
        SELECT count(*) FILTER (matched_gt >= 0)::BIGINT AS matches FROM queries
        WHERE layer = (SELECT max(layer) FROM queries) GROUP BY query ORDER BY query
    """).fetchnumpy()["matches"]
    matches = np.asarray(counts, dtype=np.int64)
    return {
        "matches": matches.tolist(),
        "dead": int((matches == 0).sum()),
        "gini": gini(matches),
    }


def gini(counts: npt.NDArray[np.int64]) -> float | None:
    """Return Σ_i Σ_j |x_i - x_j| / (2 n² mean x) of (n,) counts (Gini, 1912); None if all are 0.

    Computed as Σ_i (2 i - n - 1) x_(i) / (n Σ x) over the sorted counts, i = 1..n.
    """
    total, number = int(counts.sum()), len(counts)
    if not total:
        return None
    weights = 2 * np.arange(1, number + 1) - number - 1
    return int((weights * np.sort(counts)).sum()) / (number * total)
