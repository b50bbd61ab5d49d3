"""Write COCO results files: one for each layer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpdiag.export.detections import (
    Detection,
    categories,
    detected_images,
    layers_with_detections,
    new_folder,
)
from mpdiag.store import Run
from mpdiag.store.files import atomic_write


def export_coco(run: Run, output: Path) -> list[Path]:
    """Write `layer-NN.json` for each layer that has detections.

    A file is a list of results as `pycocotools.coco.COCO.loadRes` and FiftyOne's
    `add_coco_labels` read them: `image_id`, `category_id`, `segmentation` (compressed RLE at the
    size of the image file), `bbox` and `score`. `query` is an extra key: the query that predicted
    the mask. Empty masks are left out, since they have no box.

    Args:
        run: a finished run of the matching part.
        output: folder to create.

    Returns:
        The files, by layer.

    Raises:
        RunError: the run has no detections, or an invalid one.
        OutputError: `output` is not empty, or cannot be written.
    """
    layers, ids = layers_with_detections(run), [number for number, _ in categories(run)]
    files = {layer: output / f"layer-{layer:02d}.json" for layer in layers}
    with new_folder(output):
        for layer, path in files.items():
            _write_layer(run, layer, ids, path)
    return list(files.values())


def _write_layer(run: Run, layer: int, ids: Sequence[int], path: Path) -> None:
    with atomic_write(path) as stream:
        separator = b"[\n"
        for image in detected_images(run, [layer]):
            for found in image.detections:
                result = _result(image.image_id, ids[found.label], found)
                stream.write(separator + json.dumps(result, allow_nan=False).encode())
                separator = b",\n"
        stream.write(b"[]\n" if separator == b"[\n" else b"\n]\n")


def _result(image_id: int, category_id: int, found: Detection) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": {"size": found.size, "counts": found.counts.decode("ascii")},
        "bbox": found.box,
        "score": found.score,
        "query": found.query,
    }
