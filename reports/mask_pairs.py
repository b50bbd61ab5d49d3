"""The paper's Figure 1 for any run: the pairs of adjacent masks that differ most."""

import io
from dataclasses import dataclass

from PIL import Image

from mpdiag.store import Run
from reports.document import Picture
from reports.mask_images import (
    MAX_SIDE,
    RgbImage,
    concatenate,
    image_or_placeholder,
    overlay_mask,
    placeholder,
)
from reports.names import class_name

REPORT_SIDE = 240  # longer side of an image in a report, in pixels


@dataclass(frozen=True, slots=True)
class MaskPair:
    """A query's masks in layers `layer` - 1 and `layer`, neither empty, and their IoU.

    `label` is the class of the object that the query matches in the last layer.
    """

    image_id: int
    file_name: str
    query: int
    layer: int
    iou: float
    label: str


def lowest_iou_pairs(run: Run, count: int, image_id: int | None = None) -> list[MaskPair]:
    """Return the pairs with the lowest IoU, of all images or of one; larger masks come first.

    At most one pair per query is returned. Only queries that match an object in the last layer and
    whose masks the run keeps (`mpdiag analyze --save-masks`) are considered. Pairs with an empty
    mask are left out.
    """
    rows = run.query(
        """
        WITH kept AS (
            SELECT DISTINCT image_id, "index" AS query FROM masks WHERE kind = 'query'
        ),
        last AS (
            SELECT q.image_id, query, t.label FROM queries q
            JOIN targets t ON q.image_id = t.image_id AND q.matched_gt = t.gt
            WHERE layer = (SELECT max(layer) FROM queries)
        ),
        pairs AS (
            SELECT image_id, file_name, query, layer, iou_prev, last.label, area + area_prev AS area
            FROM queries JOIN kept USING (image_id, query) JOIN images USING (image_id)
            JOIN last USING (image_id, query)
            WHERE layer >= 1 AND area > 0 AND area_prev > 0 AND (? IS NULL OR image_id = ?)
        )
        SELECT * FROM pairs
        QUALIFY row_number() OVER (
            PARTITION BY image_id, query ORDER BY iou_prev, area DESC, layer
        ) = 1
        ORDER BY iou_prev, area DESC, image_id, query LIMIT ?
        """,
        [image_id, image_id, count],
        image_id=image_id,
    )
    return [
        MaskPair(
            int(row["image_id"]),
            str(row["file_name"]),
            int(row["query"]),
            int(row["layer"]),
            float(row["iou_prev"]),
            class_name(run, int(row["label"])),
        )
        for row in rows.to_dict("records")
    ]


def draw_pairs(
    run: Run, pairs: list[MaskPair], stem: str, *, show_images: bool = True
) -> tuple[Picture, ...]:
    """Draw each pair as one JPEG: the mask of the earlier layer, then that of the later one.

    Without `show_images`, the masks are on a plain ground, for reports on images that must not be
    published.
    """
    return tuple(
        _draw(run, pair, f"{stem}-{number}.jpg", show_images)
        for number, pair in enumerate(pairs, 1)
    )


def draw_pair(
    run: Run,
    image_id: int,
    query: int,
    layer: int,
    max_side: int = MAX_SIDE,
    *,
    show_images: bool = True,
) -> RgbImage:
    """Draw the masks of a query in layers `layer` - 1 and `layer` in red, side by side."""
    masks = run.masks(image_id, query)
    height, width = masks.shape[1:]
    image = placeholder(height, width, max_side)
    if show_images:
        image = image_or_placeholder(run, image_id, (height, width), max_side)
    return concatenate([overlay_mask(image, mask) for mask in masks[layer - 1 : layer + 1]])


def _draw(run: Run, pair: MaskPair, file: str, show_images: bool) -> Picture:
    stream = io.BytesIO()
    image = draw_pair(
        run, pair.image_id, pair.query, pair.layer, REPORT_SIDE, show_images=show_images
    )
    Image.fromarray(image).save(stream, format="JPEG", quality=88)
    caption = (
        f"Query {pair.query} of the {pair.label} in layers {pair.layer - 1} and {pair.layer}: "
        f"IoU {100 * pair.iou:.1f}% ({pair.file_name})"
    )
    return Picture(file, stream.getvalue(), caption, f"Two masks. {caption}", thumbnail=True)
