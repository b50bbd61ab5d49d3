"""Which queries match, over the whole data set: matches of each, dead ones, inequality."""

from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt


def query_use(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """How the matches of the last layer are spread over the N queries.

    - `matches`: of each query 0..N-1, the images in which it matches a GT in the last layer.
    - `dead`: how many match in none.
    - `gini`: Gini coefficient of the matches, 0 where all match equally often and near 1 where one
      query has them all; None without a match.

    Of the matching part: the queries of the MP part are the GT of an image, in their order.
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
    """Σ_i Σ_j |x_i - x_j| / (2 n² mean x) of (n,) counts (Gini, 1912); None where all are 0.

    Computed as Σ_i (2 i - n - 1) x_(i) / (n Σ x) over the sorted counts, i = 1..n.
    """
    total, number = int(counts.sum()), len(counts)
    if not total:
        return None
    weights = 2 * np.arange(1, number + 1) - number - 1
    return int((weights * np.sort(counts)).sum()) / (number * total)
