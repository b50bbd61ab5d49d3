"""SQL queries of the Inspector and Compare pages: the rows of one image of a run."""

from collections.abc import Hashable
from dataclasses import dataclass, replace

import pandas as pd

from apps.runs import LoadedRun, cached
from mpdiag.errors import RunError
from mpdiag.store import Run

MAX_IMAGES = 100

_IMAGES_BY_SCORE = """
SELECT image_id, file_name, iou AS miou_l FROM (
    SELECT image_id, max(change_score) AS change_score FROM masks
    WHERE kind = 'query' AND layer = 0 GROUP BY image_id
)
JOIN images USING (image_id)
LEFT JOIN (
    SELECT image_id, sum(iou) / nullif(sum(pairs), 0) AS iou FROM image_layers GROUP BY image_id
) USING (image_id)
ORDER BY change_score DESC NULLS LAST, iou NULLS LAST, image_id LIMIT ?
"""

_IMAGES_BY_MIOU_L = """
SELECT image_id, file_name, iou AS miou_l FROM images
LEFT JOIN (
    SELECT image_id, sum(iou) / nullif(sum(pairs), 0) AS iou FROM image_layers GROUP BY image_id
) USING (image_id)
ORDER BY iou NULLS LAST, image_id LIMIT ?
"""

_QUERIES = """
SELECT query, layer, iou_prev, matched_gt, matched_gt_iou, best_gt, best_gt_iou, label, score, area
FROM queries WHERE image_id = ? ORDER BY query, layer
"""

_TARGETS = """
SELECT gt, label, category_id, bbox, matched_query FROM targets WHERE image_id = ? ORDER BY gt
"""

_SAVED = "SELECT index FROM masks WHERE image_id = ? AND kind = 'query' AND layer = 0"


@dataclass(frozen=True, slots=True)
class QueryLayer:
    """The prediction of a query in one layer."""

    layer: int
    iou_prev: float | None
    """IoU with the mask of the layer before; None for layer 0, and if both masks are empty."""
    matched_gt: int
    """Index of the matched GT, or -1."""
    best_gt: int
    """Index of the GT with the highest IoU, or -1."""
    best_gt_iou: float | None
    label: int | None
    """Predicted class; None if the prediction is not finite, as for score and area."""
    score: float | None
    area: int | None
    """Number of cells of the mask."""


@dataclass(frozen=True, slots=True)
class RunImage:
    """The rows of one image of a run."""

    image_id: int
    file_name: str
    height: int
    width: int
    queries: pd.DataFrame
    """One row per query and layer 0..L, with columns of the `queries` table."""
    targets: pd.DataFrame
    """One row per GT: gt, label, category_id, bbox, matched_query (a list over layers 0..L)."""
    saved: frozenset[int]
    """Queries whose masks are saved in the run."""

    @property
    def numbers(self) -> list[int]:
        """The numbers of its queries in ascending order."""
        return [int(number) for number in self.queries["query"].unique()]

    @property
    def matches(self) -> pd.DataFrame:
        """The rows of `queries` that match a GT."""
        return self.queries[self.queries["matched_gt"] >= 0]

    def layers(self, query: int) -> list[QueryLayer]:
        """Return the predictions of a query in layers 0..L."""
        table = self.queries[self.queries["query"] == query][list(QueryLayer.__slots__)]
        table = table.astype(object)
        return [
            QueryLayer(*row) for row in table.where(table.notna(), None).itertuples(index=False)
        ]

    def first_queries(self, count: int, selected: int) -> list[int]:
        """Return `count` queries in ascending order of their numbers.

        These are `selected`, then those that match a GT in the last layer, then those that match
        one in another layer, then those with the highest scores in the last layer.
        """
        table = self.queries.assign(matched=self.queries["matched_gt"] >= 0)
        last = table[table["layer"] == table["layer"].max()].set_index("query")
        last["selected"] = last.index == selected
        last["ever"] = table.groupby("query")["matched"].any()
        order = last.sort_values(
            ["selected", "matched", "ever", "score"], ascending=False, kind="stable"
        )
        return sorted(int(number) for number in order.index[:count])

    def numbered_as(self, other: "RunImage") -> "RunImage":
        """Return the same image with the GT numbers of another run, whose GT may be reordered.

        GT are equal if category and box are, to a tenth of a pixel.

        Raises:
            RunError: the runs have different GT.
        """
        numbers: dict[Hashable, list[int]] = {}
        for key, gt in zip(other.gt_keys, other.targets["gt"], strict=True):
            numbers.setdefault(key, []).append(int(gt))
        try:
            renamed = {
                int(gt): numbers[key].pop(0)
                for key, gt in zip(self.gt_keys, self.targets["gt"], strict=True)
            }
        except LookupError:
            raise RunError(
                f"{self.file_name}: the boxes of its GT differ in the two runs; analyse both with "
                "the same annotations"
            ) from None
        queries = self.queries.assign(
            **{
                column: self.queries[column].map(lambda gt: renamed.get(gt, gt))
                for column in ("matched_gt", "best_gt")
            }
        )
        targets = self.targets.assign(gt=self.targets["gt"].map(renamed))
        return replace(self, queries=queries, targets=targets.sort_values("gt"))

    @property
    def gt_keys(self) -> list[Hashable]:
        """Category and box of each GT."""
        boxes = [tuple(round(float(x), 1) for x in box) for box in self.targets["bbox"]]
        return list(zip(self.targets["category_id"], boxes, strict=True))

    def rank_queries(self) -> pd.DataFrame:
        """Return one row per query, lowest IoU first: query, iou, layer, saved, finite.

        `iou` is the lowest IoU of masks in adjacent layers, `layer` the later of the two; both are
        null if the query has no IoU. `finite` says whether all its masks are. Queries with saved
        masks come first.
        """
        known = self.queries.dropna(subset="iou_prev")
        lowest = known.loc[
            known.groupby("query")["iou_prev"].idxmin(), ["query", "iou_prev", "layer"]
        ]
        ranked = pd.DataFrame({"query": self.queries["query"].unique()}).merge(lowest, how="left")
        ranked["saved"] = ranked["query"].isin(self.saved)
        broken = self.queries.loc[self.queries["area"].isna(), "query"]
        ranked["finite"] = ~ranked["query"].isin(broken)
        ranked = ranked.rename(columns={"iou_prev": "iou"})
        return ranked.sort_values(
            ["saved", "iou", "query"], ascending=[False, True, True], na_position="last"
        ).reset_index(drop=True)


def read_image(run: Run, image_id: int) -> RunImage:
    """Read all rows of an image.

    Raises:
        RunError: the run has no such image, or rows are missing.
    """
    images = run.query(
        "SELECT file_name, height, width FROM images WHERE image_id = ?",
        [image_id],
        image_id=image_id,
    )
    if images.empty:
        raise RunError(f"{run.path}: no image {image_id}; select another image")
    file_name, height, width = images.iloc[0]
    queries = run.query(_QUERIES, [image_id], image_id=image_id)
    targets = run.query(_TARGETS, [image_id], image_id=image_id)
    depth = run.num_layers + 1
    if not (queries.groupby("query")["layer"].count() == depth).all() or not all(
        len(matches) == depth for matches in targets["matched_query"]
    ):
        raise RunError(f"{run.path}: rows of image {image_id} are missing; run the analysis again")
    saved = frozenset(run.query(_SAVED, [image_id])["index"].tolist())
    return RunImage(image_id, str(file_name), int(height), int(width), queries, targets, saved)


def find_file_name(run: Run, image_id: int) -> str | None:
    """Return the file name of an image; None if the run has no such image."""
    found = run.query("SELECT file_name FROM images WHERE image_id = ?", [image_id])
    return None if found.empty else str(found["file_name"][0])


@cached
def worst_images(loaded: LoadedRun) -> pd.DataFrame:
    """Return up to MAX_IMAGES images for the Inspector: image_id, file_name, miou_l.

    These are the images with saved masks, highest change score first. If the run has no saved
    masks, all images count, lowest mIoU-L first.
    """
    by_score = loaded.run.query(_IMAGES_BY_SCORE, [MAX_IMAGES])
    return loaded.run.query(_IMAGES_BY_MIOU_L, [MAX_IMAGES]) if by_score.empty else by_score
