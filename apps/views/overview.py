"""Overview: curves and table of per-layer metrics for all runs, and facts about each run."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from apps import components, curves, url_state
from apps.formatting import escape_markdown
from apps.runs import LoadedRun
from mpdiag.store import LAYER_METRICS
from reports.formatting import UNAVAILABLE, to_csv
from reports.run_facts import run_facts

LAYER_WIDTH = 52


def render(runs: Sequence[LoadedRun]) -> None:
    """Render the page."""
    components.page_header(
        "Overview",
        "How similar the masks of adjacent layers are, and in which layer queries reach their "
        "final match.",
    )
    if all(loaded.run.summary["num_images"] == 0 for loaded in runs):
        components.show_empty(components.NO_IMAGES)
    _show_curves(runs)
    st.header("Run details", anchor=False)
    _show_facts(url_state.select_run(runs, container=st.columns([2, 3])[0]))


def _show_curves(runs: Sequence[LoadedRun]) -> None:
    left, right = st.columns(2, vertical_alignment="bottom", gap="large")
    metrics = curves.select_metrics(left)
    toggles = right.container(horizontal=True, gap="medium")
    with_paper = url_state.toggle("Paper's values", "paper", default=True, container=toggles)
    with_intervals = url_state.toggle(
        "95% intervals",
        "bands",
        default=True,
        container=toggles,
        help="Bootstrap over images, 1,000 resamples.",
    )
    shown = [
        curve for loaded in runs for curve in curves.run_curves(loaded, metrics, with_intervals)
    ]
    if with_paper:
        shown += curves.paper_curves(metrics)
    components.figure(curves.figure(shown), "mpdiag curves")
    st.caption("  \n".join(curves.describe(LAYER_METRICS[name]) for name in metrics))
    table = curves.table(shown)
    components.table(
        table,
        "mpdiag table 1",
        "metrics",
        precision=1 if all(LAYER_METRICS[name].unit == "fraction" for name in metrics) else 2,
        column_config={layer: {"width": LAYER_WIDTH} for layer in table.columns[2:]},
    )
    st.caption(f"{UNAVAILABLE}: not available.")


def _show_facts(loaded: LoadedRun) -> None:
    facts = pd.DataFrame(run_facts(loaded.run), columns=["Fact", "Value"])
    # st.table wraps long texts, st.dataframe does not. Its cells are Markdown.
    st.table(facts.set_index("Fact").map(escape_markdown))
    components.download_button("csv", to_csv(facts), f"{loaded.slug} facts", "run details")
