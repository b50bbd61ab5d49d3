"""What the Inspector asks of a run's rows, by SQL: one image at a time."""

from dataclasses import dataclass

import pandas as pd

from apps.runs import Loaded, cached
from mpdiag.errors import RunError
from mpdiag.store import Run

MOST_OFFERED = 100
PAIR_IOU = 0.5
"""Below this IoU two consecutive masks are a failure pair."""

_WORST_KEPT = """
SELECT image_id, file_name, iou AS miou_l FROM (
    SELECT image_id, max(badness) AS badness FROM masks
    WHERE kind = 'query' AND layer = 0 GROUP BY image_id
)
JOIN images USING (image_id)
LEFT JOIN (
    SELECT image_id, sum(iou) / nullif(sum(pairs), 0) AS iou FROM image_layers GROUP BY image_id
) USING (image_id)
ORDER BY badness DESC NULLS LAST, iou NULLS LAST, image_id LIMIT ?
"""

_WORST = """
SELECT image_id, file_name, iou AS miou_l FROM images
LEFT JOIN (
    SELECT image_id, sum(iou) / nullif(sum(pairs), 0) AS iou FROM image_layers GROUP BY image_id
) USING (image_id)
ORDER BY iou NULLS LAST, image_id LIMIT ?
"""

_QUERIES = """
SELECT queries.query, layer, iou_prev, matched_gt, matched_gt_iou, best_gt, best_gt_iou,
       label, score, area, area_prev, intersection_prev
FROM queries WHERE image_id = ? ORDER BY query, layer
"""

_TARGETS = "SELECT gt, label, matched_query FROM targets WHERE image_id = ? ORDER BY gt"

_KEPT = "SELECT index FROM masks WHERE image_id = ? AND kind = 'query' AND layer = 0"


@dataclass(frozen=True, slots=True)
class Layer:
    """A query's prediction M^index."""

    index: int
    iou_prev: float | None
    """IoU with the mask of the layer before; None for the first, and where both are empty."""
    matched_gt: int
    """The GT that it matches, or -1."""
    best_gt: int
    """The GT of highest IoU, or -1."""
    best_gt_iou: float | None
    label: int
    """The predicted class."""
    score: float
    area: int | None
    """Cells of the mask; None where it is not finite."""


@dataclass(frozen=True, slots=True)
class ImageRows:
    """All rows of one image."""

    image_id: int
    file_name: str
    height: int
    width: int
    queries: pd.DataFrame
    """One row for each query and layer 0..L, in this order; the columns of `queries`."""
    targets: pd.DataFrame
    """One row for each GT: gt, label, matched_query (a list over layers 0..L)."""
    kept: frozenset[int]
    """The queries whose masks the run has kept."""

    def layers(self, query: int) -> list[Layer]:
        """A query's layers 0..L."""
        columns = list(Layer.__slots__[1:])
        table = self.queries[self.queries["query"] == query][["layer", *columns]].astype(object)
        return [Layer(*row) for row in table.where(table.notna(), None).itertuples(index=False)]

    def worst(self) -> pd.DataFrame:
        """One row for each query, worst first: query, iou, layer, kept.

        `iou` is its lowest with the layer before and `layer` the later of the two layers; null
        where it has none. Queries whose masks were kept come before all others.
        """
        known = self.queries.dropna(subset="iou_prev")
        lowest = known.loc[
            known.groupby("query")["iou_prev"].idxmin(), ["query", "iou_prev", "layer"]
        ]
        every = pd.DataFrame({"query": self.queries["query"].unique()}).merge(lowest, how="left")
        every["kept"] = every["query"].isin(self.kept)
        every = every.rename(columns={"iou_prev": "iou"})
        return every.sort_values(
            ["kept", "iou", "query"], ascending=[False, True, True], na_position="last"
        ).reset_index(drop=True)

    def failures(self, most: int) -> pd.DataFrame:
        """The pairs of consecutive masks that differ most: query, layer (the later), iou.

        Of the queries whose masks were kept, each with one pair at most: an IoU below PAIR_IOU, and
        by the number of cells that lie in one of the two masks alone.
        """
        table = self.queries[
            self.queries["query"].isin(self.kept) & (self.queries["iou_prev"] < PAIR_IOU)
        ]
        cells = table["area"] + table["area_prev"] - 2 * table["intersection_prev"]
        order = table.assign(cells=cells).sort_values(
            ["cells", "query", "layer"], ascending=[False, True, True]
        )
        pairs = order.drop_duplicates("query").head(most)
        return pairs[["query", "layer", "iou_prev"]].rename(columns={"iou_prev": "iou"})


def read(run: Run, image_id: int) -> ImageRows | None:
    """All rows of an image; None where the run has no such image.

    Raises RunError where rows are missing.
    """
    images = run.query(
        "SELECT file_name, height, width FROM images WHERE image_id = ?",
        [image_id],
        image_id=image_id,
    )
    if images.empty:
        return None
    file_name, height, width = images.iloc[0]
    queries = run.query(_QUERIES, [image_id], image_id=image_id)
    targets = run.query(_TARGETS, [image_id], image_id=image_id)
    depth = run.num_layers + 1
    if not (queries.groupby("query")["layer"].count() == depth).all() or not all(
        len(matches) == depth for matches in targets["matched_query"]
    ):
        raise RunError(f"{run.path} lacks rows of image {image_id}: analyse again")
    kept = frozenset(run.query(_KEPT, [image_id])["index"].tolist())
    return ImageRows(image_id, str(file_name), int(height), int(width), queries, targets, kept)


@cached
def worst_images(loaded: Loaded) -> pd.DataFrame:
    """The images that the Inspector offers: image_id, file_name, miou_l; at most MOST_OFFERED.

    Those with kept masks, by the badness of their worst query; without any, by mIoU-L.
    """
    kept = loaded.run.query(_WORST_KEPT, [MOST_OFFERED])
    return loaded.run.query(_WORST, [MOST_OFFERED]) if kept.empty else kept
