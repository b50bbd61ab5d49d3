"""Building blocks of the pages: figures and tables with downloads, messages, header and footer."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from PIL import Image

from apps import formatting, url_state
from reports.formatting import UNAVAILABLE, to_csv
from reports.mask_images import RgbImage

FIGURE_FORMATS = ("svg", "png")
MIME_TYPES = {"csv": "text/csv", "png": "image/png"}
NO_IMAGES = "This run has no images. Run the analysis on a data set with images."
MAX_NAME = 24
"""Number of characters of a name that widens its column."""
ROW_HEIGHT = 30
"""Height of a table row in pixels."""


def page_header(title: str, description: str) -> None:
    """Show the title of a page and one sentence that describes it."""
    st.title(title, anchor=False)
    st.caption(description)


def figure(chart: go.Figure, name: str, **options: Any) -> Any:
    """Show a figure with a camera button that saves it as `name`, as PNG or SVG.

    The page footer selects the format. `options` go to `st.plotly_chart`.
    """
    chart.update_layout(margin={"l": 10, "r": 10, "t": 40, "b": 10})
    image_format = url_state.get_option("figures", FIGURE_FORMATS)
    config = {
        "displaylogo": False,
        "displayModeBar": True,
        "modeBarButtons": [["toImage"]],
        "toImageButtonOptions": {
            "format": image_format,
            "filename": formatting.slugify(name),
            "scale": 2,
        },
    }
    return st.plotly_chart(chart, config=config, alt=f"Figure: {name}", **options)


def clickable_figure(
    chart: go.Figure, name: str, on_click: Callable[[Mapping[str, Any]], None], **options: Any
) -> None:
    """Show a `figure` that calls `on_click` with the clicked point before the page runs again.

    The point is Plotly's: x, y, and customdata if the trace has some.
    """
    key = f"figure {name}"

    def on_select() -> None:
        points = st.session_state[key]["selection"]["points"]
        if points:
            on_click(points[0])

    figure(chart, name, key=key, on_select=on_select, selection_mode="points", **options)


def table(
    frame: pd.DataFrame, name: str, content: str, *, precision: int = 1, **options: Any
) -> None:
    """Show a table with a button that saves it as CSV; `options` go to `st.dataframe`.

    `name` and `content` are as in `download_button`.
    """
    defaults: dict[str, Any] = {
        "hide_index": True,
        "row_height": ROW_HEIGHT,
        "height": "content",
        "placeholder": UNAVAILABLE,
    }
    st.dataframe(frame.style.format(precision=precision), **{**defaults, **options})
    download_button("csv", to_csv(frame), name, content)


def name_column(names: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Return the `column_config` of a column, header -> names.

    Long names would push the other columns out of view.
    """
    return {
        header: {"width": "medium"}
        for header, texts in names.items()
        if max(map(len, texts), default=0) > MAX_NAME
    }


def download_image(draw: Callable[[], RgbImage], name: str, content: str) -> None:
    """Show a button that saves the image that `draw` returns as PNG, as `download_button`."""

    def data() -> bytes:
        stream = io.BytesIO()
        Image.fromarray(draw()).save(stream, "PNG")
        return stream.getvalue()

    download_button("png", data, name, content)


def download_button(
    extension: Literal["csv", "png"], data: bytes | Callable[[], bytes], name: str, content: str
) -> None:
    """Show a small button that saves `data`, or what it returns; the page does not run again.

    `name` is the file name without extension, and `content` says in the label what is saved. Both
    must be unique on the page: a screen reader distinguishes the buttons by their labels.
    """
    st.download_button(
        f"{extension.upper()}: {content}",
        data,
        file_name=f"{formatting.slugify(name)}.{extension}",
        mime=MIME_TYPES[extension],
        key=f"download {name}.{extension}",
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
    )


def legend(entries: Sequence[tuple[str, str]]) -> None:
    """Show what marks and texts mean: pairs of a sample in HTML and its meaning."""
    items = "".join(
        f"<div><dt>{sample}</dt><dd>{formatting.escape_html(meaning)}</dd></div>"
        for sample, meaning in entries
    )
    st.html(f'<dl class="legend">{items}</dl>')


def show_error(error: Exception) -> None:
    """Show an error that the user can fix."""
    st.error(formatting.escape_markdown(str(error)), icon=":material/error:")


def show_unexpected_error(error: Exception) -> None:
    """Show an error that no page handles: damaged rows of a run, or a bug."""
    text = formatting.escape_markdown(f"{type(error).__name__}: {error}"[:300])
    st.error(
        f"Unexpected error on this page ({text}). If the run directory is damaged, run the "
        "analysis again. Otherwise this is a bug in mpdiag: see the server log for details.",
        icon=":material/error:",
    )


def show_empty(message: str) -> None:
    """Explain why there is nothing to show and what to do; `message` is Markdown."""
    st.info(message, icon=":material/info:")


def page_footer() -> None:
    """Show how to share the page and in which format figures are saved."""
    st.divider()
    text, select = st.columns([5, 1], vertical_alignment="center")
    text.caption(
        "To share this view, copy the URL: it restores the same view for the same runs. "
        "To save a figure, click the camera above it."
    )
    url_state.selectbox(
        "Figure format", "figures", FIGURE_FORMATS, container=select, format_func=str.upper
    )
