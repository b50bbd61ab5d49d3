"""The dashboard's page; run it as `mpdiag dashboard RUN...`.

Top to bottom: the curves of all runs, their table, and one query's masks in all layers.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from apps import curves, layers
from mpdiag.errors import RunError
from mpdiag.store import Run


def main(paths: Sequence[str]) -> None:
    """Show the page for the run directories `paths`."""
    st.set_page_config(page_title="mpdiag", page_icon=":material/layers:", layout="wide")
    st.title("Layer inspector", anchor=False)
    if not paths:
        st.info(
            "No run is given. Write one with `mpdiag analyze CHECKPOINT --dataset ... "
            "--output RUN`, then look at it with `mpdiag dashboard RUN...`.",
            icon=":material/info:",
        )
        return
    runs = _open(paths)
    if runs:
        _show_curves(runs)
        layers.show(runs)


def _open(paths: Sequence[str]) -> dict[str, Run]:
    """The runs that can be read, by a name that is theirs alone; the others show as errors."""
    found: list[Run] = []
    for path in dict.fromkeys(paths):
        try:
            found.append(_open_once(path, _stamp(path)))
        except RunError as error:
            st.error(str(error), icon=":material/error:")
    shared = Counter(run.name for run in found)
    return {run.name if shared[run.name] == 1 else str(run.path): run for run in found}


@st.cache_resource(show_spinner=False, max_entries=64)
def _open_once(path: str, stamp: float) -> Run:
    """`stamp` makes a run that was written anew another entry of the cache."""
    return Run.open(Path(path))


def _stamp(path: str) -> float:
    try:
        return (Path(path) / "run.json").stat().st_mtime
    except OSError:
        return 0.0


def _show_curves(runs: dict[str, Run]) -> None:
    st.subheader("How the layers agree", anchor=False)
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    convention = left.selectbox(
        "Pairs of empty masks",
        list(curves.EMPTY_PAIRS),
        help="Two empty masks have no IoU. How they count moves mIoU-L by tens of points; "
        "the paper does not say what it does.",
    )
    with_paper = right.toggle("Figures of the paper", value=True)
    shown = []
    for name, run in runs.items():
        try:
            shown.append(curves.of_run(run, name, curves.EMPTY_PAIRS[convention]))
        except RunError as error:
            st.error(str(error), icon=":material/error:")
    if with_paper:
        shown += curves.of_paper()
    st.plotly_chart(curves.figure(shown), config={"displayModeBar": False})
    st.dataframe(
        curves.table(shown).style.format(precision=1, na_rep="–"),
        hide_index=True,
        height="content",
    )
    if with_paper:
        st.caption("Percent. – : not legible in the paper. It measured COCO with a ResNet-50.")


main(sys.argv[1:])
