"""Live: an image of one's own through a checkpoint, layer by layer."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image, ImageOps

from apps import address, elements, pictures, texts
from apps.pictures import Picture
from apps.runs import Loaded
from mpdiag.errors import CheckpointError, RunError

if TYPE_CHECKING:
    from apps.live_model import Predictions

TYPES = ("jpg", "jpeg", "png", "webp", "bmp")
LOCAL = ("localhost", "127.0.0.1", "::1")
LARGEST = 2000
"""Longest side of an image that a model is shown, in pixels; larger ones are made smaller."""
_GIVEN = "checkpoint given at the start"


def offer(checkpoint: str | None) -> None:
    """Tell the page which checkpoint the dashboard was started with."""
    st.session_state[_GIVEN] = checkpoint


def show(loaded: Sequence[Loaded]) -> None:
    """Show the page; `loaded` runs are no matter of it."""
    elements.heading("Live", "An image of your own through a checkpoint, layer by layer.")
    left, right = st.columns(2, gap="large")
    path = _choose_checkpoint(left)
    upload = right.file_uploader("Image", list(TYPES))
    if path is None:
        return
    if upload is None:
        elements.empty("Choose an image. It stays on the machine that serves this page.")
        return
    picture = _read(upload.getvalue(), str(upload.name))
    with st.spinner("Running the model ..."):
        names, found = _run(path, _modified(path), picture)
    small = ImageOps.contain(Image.fromarray(picture), (pictures.SIDE, pictures.SIDE))
    _show(names, found, np.asarray(small))


def _choose_checkpoint(box: Any) -> str | None:
    """The checkpoint to run; only who sits at the machine that serves may name a path."""
    given: str | None = st.session_state.get(_GIVEN)
    if st.get_option("server.address") not in LOCAL:
        if given is None:
            elements.empty(
                "No checkpoint to run. Whoever starts the dashboard names it: "
                "`mpdiag dashboard RUN --checkpoint model_final.pth`."
            )
        else:
            box.caption(f"Checkpoint: {texts.markdown(given)}")
        return given
    path = box.text_input(
        "Checkpoint",
        value=given or "",
        placeholder="runs/piloted/model_final.pth",
        help="A file or directory that `mpdiag analyze` takes. Nothing in it is executed.",
    )
    if not path:
        elements.empty("Name a checkpoint: a file or directory that `mpdiag analyze` takes.")
    return path.strip() or None


def _read(data: bytes, name: str) -> Picture:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (LARGEST, LARGEST))
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((LARGEST, LARGEST))
            return np.asarray(upright)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RunError(f"{name} can't be read as an image: give a JPEG or PNG") from error


def _modified(path: str) -> float:
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0


@st.cache_resource(show_spinner=False, max_entries=1)
def _model(path: str, modified: float) -> Any:
    """`modified` makes a file that was written anew another entry of the cache."""
    from apps import live_model

    if not Path(path).exists():
        raise CheckpointError(f"{path} does not exist: give a checkpoint's file or directory")
    return live_model.load(path)


@st.cache_data(
    show_spinner=False,
    max_entries=2,
    hash_funcs={np.ndarray: lambda array: (array.shape, hashlib.sha256(array.tobytes()).digest())},
)
def _run(path: str, modified: float, picture: Picture) -> tuple[list[str], "Predictions"]:
    from apps import live_model

    model = _model(path, modified)
    return live_model.class_names(model), live_model.predict(model, picture)


def _show(names: Sequence[str], found: "Predictions", picture: Picture) -> None:
    table = _table(names, found)
    query = address.select(
        "Query, most confident first",
        "query",
        [int(number) for number in found.queries],
        box=st.columns([1, 2])[0],
        show=lambda number: f"{number}: {_summary(table, number)}",
    )
    place = found.queries.tolist().index(query)
    for layer, box in enumerate(st.columns(len(found.masks), gap="xsmall")):
        with box:
            st.image(pictures.red_over(picture, found.masks[layer, place]), width="stretch")
            iou = "first" if not layer else f"IoU {texts.percent(found.iou[layer - 1, place])}"
            label = texts.markdown(_name(names, int(found.labels[layer, place])))
            score = found.scores[layer, place]
            st.caption(f"**{texts.layer(layer)}**  \n{iou}  \n{label} {score:.2f}")
    agreement = ", ".join(
        f"{texts.layer(layer)} {texts.percent(value)}"
        for layer, value in enumerate(found.miou_l, start=1)
    )
    st.caption(f"mIoU-L over all queries of this image: {agreement}.")
    st.header("Most confident queries", anchor=False)
    elements.table(table, "mpdiag live queries")


def _table(names: Sequence[str], found: "Predictions") -> pd.DataFrame:
    worst = [
        int(np.nanargmin(column)) if not np.isnan(column).all() else None for column in found.iou.T
    ]
    return pd.DataFrame(
        {
            "Query": found.queries,
            "Class": [_name(names, int(label)) for label in found.labels[-1]],
            "Score, %": 100 * found.scores[-1],
            "Lowest IoU, %": [
                None if layer is None else 100 * found.iou[layer, place]
                for place, layer in enumerate(worst)
            ],
            "into": [None if layer is None else texts.layer(layer + 1) for layer in worst],
            "Class in M⁰": [_name(names, int(label)) for label in found.labels[0]],
        }
    )


def _summary(table: pd.DataFrame, query: int) -> str:
    row = table[table["Query"] == query].iloc[0]
    return f"{row['Class']} {row['Score, %']:.0f} %"


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else f"class {label}"
