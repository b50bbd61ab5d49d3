"""Live: run a checkpoint on an uploaded image and show all layers."""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image, ImageOps
from streamlit.delta_generator import DeltaGenerator

from apps import components, filmstrip, url_state
from apps.formatting import escape_markdown, format_percent
from apps.runs import LoadedRun
from mpdiag.errors import CheckpointError, RunError
from mpdiag.printable import printable
from reports.mask_images import MAX_SIDE, RgbImage
from reports.names import layer_symbol

if TYPE_CHECKING:
    from apps.live_model import LivePredictions

TYPES = ("jpg", "jpeg", "png", "webp", "bmp")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""Formats that Pillow may detect: others, such as EPS, run external programs."""
MAX_PIXELS = 50_000_000
"""Number of pixels of the largest image, which Pillow decodes in memory."""
LOCAL_ADDRESSES = ("localhost", "127.0.0.1", "::1")
MAX_INPUT_SIDE = 2000
"""Larger images are reduced to this length of the longer side, in pixels."""
_CHECKPOINT = "default checkpoint"
_DEVICE = "device"


def set_model(checkpoint: str | None, device: str | None) -> None:
    """Set the checkpoint and the device that the dashboard was started with."""
    st.session_state[_CHECKPOINT] = checkpoint
    st.session_state[_DEVICE] = device


def render(runs: Sequence[LoadedRun]) -> None:
    """Render the page; it does not use `runs`."""
    components.page_header("Live", "Run a checkpoint on an image and show all layers.")
    left, right = st.columns(2, gap="large")
    path = _select_checkpoint(left)
    upload = right.file_uploader("Image", list(TYPES))
    if path is None:
        return
    if upload is None:
        components.show_empty("Select an image. It is not sent beyond the server of this page.")
        return
    image = _read(upload.getvalue(), str(upload.name))
    with st.spinner("Running the model ..."):
        class_names, device, predictions = _run(
            path, _modification_time(path), st.session_state.get(_DEVICE), image
        )
    left.caption(f"Runs on {device}.")
    small = np.asarray(ImageOps.contain(Image.fromarray(image), (MAX_SIDE, MAX_SIDE)))
    _show_predictions(class_names, predictions, small)


def _select_checkpoint(container: DeltaGenerator) -> str | None:
    """Return the path of the checkpoint. A path can be entered only on a local server."""
    default: str | None = st.session_state.get(_CHECKPOINT)
    if st.get_option("server.address") not in LOCAL_ADDRESSES:
        if default is None:
            components.show_empty(
                "No checkpoint. Start the dashboard with one: "
                "`mpdiag dashboard RUN --checkpoint model_final.pth`."
            )
        else:
            container.caption(f"Checkpoint: {escape_markdown(default)}")
        return default
    path = container.text_input(
        "Checkpoint",
        value=default or "",
        placeholder="runs/piloted/model_final.pth",
        help="A file or directory that `mpdiag analyze` accepts. No code in it is executed.",
    )
    if not path:
        components.show_empty("Enter a checkpoint: a file or directory for `mpdiag analyze`.")
    return path.strip() or None


def _read(data: bytes, name: str) -> RgbImage:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.draft("RGB", (MAX_INPUT_SIDE, MAX_INPUT_SIDE))
            if image.width * image.height > MAX_PIXELS:
                raise ValueError("too many pixels")
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((MAX_INPUT_SIDE, MAX_INPUT_SIDE))
            return np.asarray(upright)
    except Exception as error:  # Pillow raises errors of many types for a broken file
        raise RunError(
            f"{printable(name, 200)}: not a readable image; use a JPEG or PNG file of at most "
            f"{MAX_PIXELS // 10**6} million pixels"
        ) from error


def _modification_time(path: str) -> float:
    """Return the last change of a file, or of the files in a directory."""
    try:
        files = [file for file in Path(path).glob("*") if file.is_file()]
        return max(file.stat().st_mtime for file in files or [Path(path)])
    except (OSError, ValueError):  # ValueError: the path has a null character
        return 0.0


@st.cache_resource(show_spinner=False, max_entries=1)
def _load_model(path: str, modified: float, device: str | None) -> Any:
    """Load a checkpoint on a device; `modified` is part of the cache key."""
    from apps import live_model

    if not os.path.exists(path):  # Path.exists raises an error for a path that is too long
        raise CheckpointError(
            f"{printable(path, 200)}: does not exist; enter a checkpoint file or directory"
        )
    return live_model.load_model(path, device)


@st.cache_data(
    show_spinner=False,
    max_entries=2,
    hash_funcs={np.ndarray: lambda array: (array.shape, hashlib.sha256(array.tobytes()).digest())},
)
def _run(
    path: str, modified: float, device: str | None, image: RgbImage
) -> tuple[list[str], str, "LivePredictions"]:
    """Return the class names, the device and the predictions of a checkpoint for an image."""
    from apps import live_model

    model = _load_model(path, modified, device)
    predictions = live_model.predict(model, image)
    return live_model.class_names(model), live_model.device_name(model), predictions


def _show_predictions(
    class_names: Sequence[str], predictions: "LivePredictions", image: RgbImage
) -> None:
    table = _query_table(class_names, predictions)
    labels = {
        int(row["Query"]): f"{row['Query']}: {row['Class']} {row['Score, %']:.0f}%"
        for row in table.to_dict("records")
    }
    query = url_state.selectbox(
        "Query, highest score first",
        "query",
        list(labels),
        container=st.columns([1, 2])[0],
        format_func=labels.__getitem__,
    )
    index = predictions.queries.tolist().index(query)
    captions = []
    known = predictions.iou[:, index][~np.isnan(predictions.iou[:, index])]
    lowest = known.min(initial=np.inf)
    for layer, label in enumerate(predictions.labels[:, index]):
        iou = "first layer"
        if layer:
            iou = filmstrip.describe_iou(predictions.iou[layer - 1, index], lowest)
        predicted = f"{escape_markdown(_class_name(class_names, int(label)))} "
        predicted += f"{predictions.scores[layer, index]:.2f}"
        captions.append(f"**{layer_symbol(layer)}**  \n{iou}  \n{predicted}")
    filmstrip.show_masks(image, predictions.masks[:, index], captions)
    components.legend((filmstrip.MASK_ENTRY, filmstrip.IOU_ENTRY, filmstrip.CLASS_ENTRY))
    miou_l = ", ".join(
        f"{layer_symbol(layer)} {format_percent(value)}"
        for layer, value in enumerate(predictions.miou_l, start=1)
    )
    st.caption(f"mIoU-L over all queries of this image: {miou_l}.")
    st.header("Queries with the highest scores", anchor=False)
    components.table(table, "mpdiag live queries", "queries")


def _query_table(class_names: Sequence[str], predictions: "LivePredictions") -> pd.DataFrame:
    """Return one row per query with its class, score and lowest IoU of adjacent layers."""
    lowest = [
        int(np.nanargmin(column)) if not np.isnan(column).all() else None
        for column in predictions.iou.T
    ]
    return pd.DataFrame(
        {
            "Query": predictions.queries,
            "Class": [_class_name(class_names, int(label)) for label in predictions.labels[-1]],
            "Score, %": 100 * predictions.scores[-1],
            "Lowest IoU, %": [
                None if layer is None else 100 * predictions.iou[layer, index]
                for index, layer in enumerate(lowest)
            ],
            "At layer": [None if layer is None else layer_symbol(layer + 1) for layer in lowest],
            "Class in M⁰": [
                _class_name(class_names, int(label)) for label in predictions.labels[0]
            ],
        }
    )


def _class_name(class_names: Sequence[str], label: int) -> str:
    return class_names[label] if label < len(class_names) else f"class {label}"
