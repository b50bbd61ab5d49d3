"""The dashboard's page, run by Streamlit: `mpdiag dashboard RUN...`.

From top to bottom: the curves of all runs, their table, and one query's masks in all layers.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from apps import curves, layers
from mpdiag.errors import RunError
from mpdiag.store import Run
from reports.table1 import labels

# Less margin than Streamlit leaves, since ten masks stand side by side; and a chart's texts in the
# colour of the theme's text, where Streamlit has a pale grey.
STYLE = """
.stMainBlockContainer { padding: 3rem 2.5rem; }
.stPlotlyChart :is(.infolayer, [class$="tick"]) text { fill: currentColor !important; }
"""
LAYER_WIDTH = 52


def main(paths: Sequence[str]) -> None:
    """Show the page for the run directories `paths`."""
    st.set_page_config(page_title="mpdiag", page_icon=":material/layers:", layout="wide")
    st.html(f"<style>{STYLE}</style>")
    st.title("Layer inspector", anchor=False)
    if not paths:
        st.info(
            "No run is given. Write one with `mpdiag analyze CHECKPOINT --dataset synthetic "
            "--output RUN`, then look at it with `mpdiag dashboard RUN`.",
            icon=":material/info:",
        )
    runs = _open_all(paths)
    if runs:
        names = [
            f"{label}, {run.header.get('part')} part"
            for label, run in zip(labels(runs), runs, strict=True)
        ]
        _show_curves(names, runs)
        layers.show(names, runs)


def _open_all(paths: Sequence[str]) -> list[Run]:
    """The runs that can be read; the others show as errors."""
    found = []
    for path in dict.fromkeys(paths):
        try:
            found.append(_open(path, _written(path)))
        except RunError as error:
            layers.show_error(error)
    return found


@st.cache_resource(show_spinner=False, max_entries=64)
def _open(path: str, written: float) -> Run:
    """`written` makes a run that was analysed anew another entry of the cache."""
    return Run.open(Path(path))


def _written(path: str) -> float:
    try:
        return (Path(path) / "run.json").stat().st_mtime
    except OSError:
        return 0.0


def _show_curves(names: Sequence[str], runs: Sequence[Run]) -> None:
    left, right = st.columns([2, 1], vertical_alignment="bottom", gap="large")
    convention = left.selectbox(
        "Pairs of empty masks",
        list(curves.CONVENTIONS),
        help="Two empty masks have no IoU. How they count can move mIoU-L by tens of points; "
        "the paper does not say what it does.",
    )
    with_paper = right.toggle("Show the paper's figures", value=True)
    key = curves.CONVENTIONS[convention]
    shown = [curves.of_run(run, name, key) for name, run in zip(names, runs, strict=True)]
    if with_paper:
        shown += curves.of_paper()
    st.plotly_chart(curves.figure(shown), config={"displayModeBar": False})
    table = curves.table(shown)
    st.dataframe(
        table.style.format(precision=1),
        hide_index=True,
        height="content",
        row_height=30,
        column_config={layer: {"width": LAYER_WIDTH} for layer in table.columns[2:]},
        placeholder="–",  # noqa: RUF001
    )
    st.caption(
        "Percent. A dash (–) stands for a figure that our copy of the paper does not show "  # noqa: RUF001
        "legibly, or that the run does not have."
    )


main(sys.argv[1:])
