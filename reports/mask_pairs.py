"""The paper's Figure 1 for any run: queries whose mask changes most from a layer to the next."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from mpdiag.errors import RunError
from mpdiag.store import Run
from reports.document import Picture

HEIGHT = 180  # of a picture, in pixels
GAP = 6
RED = (225, 25, 35)

Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class MaskPair:
    """A query's masks in layers `layer` - 1 and `layer`, both not empty, and what they have in
    common; `label` is the class of the object that it matches in the last layer."""

    image_id: int
    file_name: str
    query: int
    layer: int
    iou: float
    label: str


def lowest_iou_pairs(run: Run, count: int) -> list[MaskPair]:
    """The pairs of least IoU, one a query, larger masks first.

    Of the queries that match an object in the last layer and whose masks are kept
    (`mpdiag analyze --save-masks`). Pairs with an empty mask are left out: there is nothing to see.
    """
    found = run.query(
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
            WHERE layer >= 1 AND area > 0 AND area_prev > 0
        )
        SELECT * FROM pairs
        QUALIFY row_number() OVER (
            PARTITION BY image_id, query ORDER BY iou_prev, area DESC, layer
        ) = 1
        ORDER BY iou_prev, area DESC, image_id, query LIMIT ?
        """,
        [count],
    )
    classes = run.header.get("classes") or []
    return [
        MaskPair(
            int(row["image_id"]),
            str(row["file_name"]),
            int(row["query"]),
            int(row["layer"]),
            float(row["iou_prev"]),
            _name(classes, int(row["label"])),
        )
        for row in found.to_dict("records")
    ]


def _name(classes: list[dict[str, object]], label: int) -> str:
    return str(classes[label]["name"]) if label < len(classes) else ""


def draw_pairs(run: Run, pairs: list[MaskPair], stem: str) -> tuple[Picture, ...]:
    """Each pair as a picture: the layer before, then the layer, the masks in red."""
    return tuple(_draw(run, pair, f"{stem}-{number}.jpg") for number, pair in enumerate(pairs, 1))


def _draw(run: Run, pair: MaskPair, file: str) -> Picture:
    masks = run.masks(pair.image_id, pair.query)
    canvas = _canvas(run, pair, masks.shape[1:])
    sides = [_red_over(canvas, mask) for mask in masks[pair.layer - 1 : pair.layer + 1]]
    gap = np.full((HEIGHT, GAP, 3), 255, dtype=np.uint8)
    stream = io.BytesIO()
    both = Image.fromarray(np.concatenate([sides[0], gap, sides[1]], axis=1))
    both.save(stream, format="JPEG", quality=88)
    of = f"of the {pair.label} " if pair.label else ""
    caption = (
        f"Query {pair.query} {of}in layers {pair.layer - 1} and {pair.layer}: "
        f"IoU {100 * pair.iou:.1f}% ({pair.file_name})"
    )
    return Picture(file, stream.getvalue(), caption, f"Two masks. {caption}", small=True)


def _canvas(run: Run, pair: MaskPair, shape: tuple[int, ...]) -> Array:
    """The picture, nearly grey, so that a red object is not taken for a mask."""
    width = max(1, round(HEIGHT * shape[1] / max(shape[0], 1)))
    try:
        with Image.open(run.image(pair.image_id)) as image:
            size = (width, HEIGHT)
            picture = np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    except (RunError, OSError, ValueError, Image.DecompressionBombError):
        return np.full((HEIGHT, width, 3), 128, dtype=np.uint8)
    grey = picture.mean(axis=2, keepdims=True)
    faded: Array = (0.75 * grey + 0.25 * picture).astype(np.uint8)
    return faded


def _red_over(canvas: Array, mask: npt.NDArray[np.bool_]) -> Array:
    size = (canvas.shape[1], canvas.shape[0])
    on = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    tinted = (0.45 * canvas + 0.55 * np.array(RED)).astype(np.uint8)
    return np.where(on[..., None] > 0, tinted, canvas)
