"""Write a FiftyOne dataset with one label field for each layer, without FiftyOne.

The folder holds `metadata.json` and `samples.json`, the JSON form of a `FiftyOneDataset` (a mask is
the base64 of a zlib-compressed .npy file). A `metadata.json` without `version` makes FiftyOne read
documents that no version of its database schema defines.
"""

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mpdiag.export.detections import (
    DetectedImage,
    Detection,
    categories,
    detected_images,
    layers_with_detections,
    new_folder,
)
from mpdiag.store import Run
from mpdiag.store.files import atomic_write, replace_json


def export_fiftyone(run: Run, output: Path) -> list[Path]:
    """Write a dataset that `fiftyone.Dataset.from_dir(output, FiftyOneDataset)` reads.

    Each image is a sample that refers to the image file of the data set. Each layer with detections
    is a field `layer_NN` of `Detections` with label, box, mask, confidence and `query`. An empty
    mask has no box and is left out.

    Args:
        run: a finished run of the matching part.
        output: folder to create.

    Returns:
        The folder.

    Raises:
        RunError: the run has no detections, or an invalid one; an image file does not exist.
        OutputError: `output` is not empty, or cannot be written.
    """
    layers, names = layers_with_detections(run), [name for _, name in categories(run)]
    files = {image_id: str(file.absolute()) for image_id, file in run.image_files().items()}
    info = {"run": run.name, "classes": names}
    with new_folder(output):
        replace_json(output / "metadata.json", {"media_type": "image", "info": info})
        with atomic_write(output / "samples.json") as stream:
            separator = b'{"samples": [\n'
            for image in detected_images(run, layers):
                sample = _sample(image, files[image.image_id], layers, names)
                stream.write(separator + json.dumps(sample, allow_nan=False).encode())
                separator = b",\n"
            stream.write(b"\n]}\n")
    return [output]


def _sample(image: DetectedImage, file: str, layers: list[int], names: list[str]) -> dict[str, Any]:
    height, width = image.size
    fields = {
        f"layer_{layer:02d}": {
            "_cls": "Detections",
            "detections": [
                _label(found, names[found.label])
                for found in image.detections
                if found.layer == layer
            ],
        }
        for layer in layers
    }
    metadata = {"_cls": "ImageMetadata", "width": width, "height": height}
    return {
        "filepath": file,
        "tags": [],
        "metadata": metadata,
        "image_id": image.image_id,
        **fields,
    }


def _label(found: Detection, name: str) -> dict[str, Any]:
    (x, y, width, height), (rows, columns) = found.box, found.size
    return {
        "_cls": "Detection",
        "label": name,
        "bounding_box": [x / columns, y / rows, width / columns, height / rows],
        "mask": _encode(found.crop()),
        "confidence": found.score,
        "query": found.query,
    }


def _encode(mask: npt.NDArray[np.bool_]) -> str:
    stream = io.BytesIO()
    np.save(stream, mask, allow_pickle=False)
    return base64.b64encode(zlib.compress(stream.getvalue())).decode("ascii")
