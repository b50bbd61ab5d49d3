"""What pages are made of: figures and tables that can be saved, errors, and empty states."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from PIL import Image

from apps import address, texts
from apps.pictures import Picture
from reports.cells import inert

FORMATS = ("svg", "png")
DASH = "–"  # noqa: RUF001
ROW = 30


def heading(title: str, lead: str) -> None:
    """The title of a page, and one sentence that says what it is for."""
    st.title(title, anchor=False)
    st.caption(lead)


def figure(chart: go.Figure, name: str, **options: Any) -> Any:
    """Show a figure whose camera button saves it as PNG or SVG, as chosen below the page.

    `name` is that of the saved file; `options` go to st.plotly_chart.
    """
    kind = address.choice("figures", FORMATS)
    config = {
        "displaylogo": False,
        "displayModeBar": True,
        "modeBarButtons": [["toImage"]],
        "toImageButtonOptions": {"format": kind, "filename": texts.slug(name), "scale": 2},
    }
    return st.plotly_chart(chart, config=config, **options)


def clickable(
    chart: go.Figure, name: str, on_click: Callable[[Mapping[str, Any]], None], **options: Any
) -> None:
    """`figure`, of which a click on a point calls `on_click` with the point, then shows the page.

    The point has what Plotly tells of it: x, y, and customdata where the trace has some.
    """
    key = f"figure {name}"

    def clicked() -> None:
        points = st.session_state[key]["selection"]["points"]
        if points:
            on_click(points[0])

    figure(chart, name, key=key, on_select=clicked, selection_mode="points", **options)


def table(frame: pd.DataFrame, name: str, *, precision: int = 1, **options: Any) -> None:
    """Show a table with a button that saves it as CSV; `options` go to st.dataframe."""
    shown: dict[str, Any] = {"hide_index": True, "row_height": ROW, "height": "content"}
    st.dataframe(frame.style.format(precision=precision), placeholder=DASH, **{**shown, **options})
    download("csv", csv(frame), name, "text/csv")


def csv(frame: pd.DataFrame) -> bytes:
    """The table as CSV in which no name from a file is a formula to a spreadsheet."""
    safe = frame.map(inert).rename(columns=inert)
    # Cells are quoted that hold a character of the line's end: none can begin a row of its own.
    return safe.to_csv(index=False, lineterminator="\r\n").encode()


def save_picture(paint: Callable[[], Picture], name: str) -> None:
    """A button that saves as PNG the picture that `paint` gives once it is pressed."""

    def data() -> bytes:
        stream = io.BytesIO()
        Image.fromarray(paint()).save(stream, "PNG")
        return stream.getvalue()

    download("png", data, name, "image/png")


def download(kind: str, data: bytes | Callable[[], bytes], name: str, mime: str) -> None:
    """A small button that saves `data`, or what it gives; the page does not run again for it.

    `name`, which tells it from all others on the page, is that of the file without its ending.
    """
    st.download_button(
        kind.upper(),
        data,
        file_name=f"{texts.slug(name)}.{kind}",
        mime=mime,
        key=f"download {name}.{kind}",
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
    )


def error(problem: Exception) -> None:
    """Show what the user can mend."""
    st.error(texts.markdown(str(problem)), icon=":material/error:")


def defect(problem: Exception) -> None:
    """Show an error that no page expected: damaged rows of a run, or a mistake of ours."""
    kind = texts.markdown(f"{type(problem).__name__}: {problem}"[:300])
    st.error(
        f"This page can't be shown ({kind}). Either the run directory is damaged, and analysing "
        "again mends it, or this is a defect of mpdiag; the server's log has the details.",
        icon=":material/error:",
    )


def empty(advice: str) -> None:
    """Say that there is nothing to show, and what to do about it; `advice` is Markdown."""
    st.info(advice, icon=":material/info:")


def footer() -> None:
    """How figures are saved."""
    st.divider()
    words, buttons = st.columns([5, 1], vertical_alignment="center")
    words.caption(
        "The address holds all that you see: copy it to show this view to somebody who has the "
        "same runs. The camera above a figure saves it in the format chosen here."
    )
    address.select("Figures as", "figures", FORMATS, box=buttons, show=str.upper)
