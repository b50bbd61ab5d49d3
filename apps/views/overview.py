"""Overview: Table 1 and its curves for all runs, beside the paper's figures; and what a run is."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from apps import address, curves, elements, texts
from apps.runs import Loaded
from reports.facts import facts_of

LAYER_WIDTH = 52


def show(loaded: Sequence[Loaded]) -> None:
    """Show the page."""
    elements.heading(
        "Overview",
        "How much the masks of consecutive layers agree, and how early queries settle on objects.",
    )
    _show_curves(loaded)
    st.header("What was analysed", anchor=False)
    _show_facts(address.run(loaded, box=st.columns([2, 3])[0]))


def _show_curves(loaded: Sequence[Loaded]) -> None:
    left, middle, right = st.columns([3, 2, 2], vertical_alignment="bottom", gap="large")
    key = address.select(
        "Pairs of empty masks",
        "empty",
        list(curves.CONVENTIONS),
        box=left,
        show=curves.CONVENTIONS.__getitem__,
        help="Two empty masks have no IoU. How they count can move mIoU-L by tens of points; "
        "the paper does not say what it does.",
    )
    with_paper = address.toggle("The paper's figures", "paper", default=True, box=middle)
    with_bands = address.toggle(
        "95% intervals",
        "bands",
        default=True,
        box=right,
        help="By drawing as many images as there are, with replacement, 1,000 times. mIoU-L has "
        "one where pairs of empty masks are left out.",
    )
    shown = [curves.of_run(one, key) for one in loaded]
    bands = [curves.bands_of(one, key) for one in loaded] if with_bands else []
    if with_paper:
        shown += curves.of_paper()
    elements.figure(curves.figure(shown, bands), "mpdiag curves")
    table = curves.table(shown)
    elements.table(
        table,
        "mpdiag table 1",
        column_config={layer: {"width": LAYER_WIDTH} for layer in table.columns[2:]},
    )
    st.caption(
        f"Percent. A dash ({elements.DASH}) stands for a figure that our copy of the paper does "
        "not show legibly, or that the run does not have."
    )


def _show_facts(one: Loaded) -> None:
    facts = pd.DataFrame(facts_of(one.run), columns=["Fact", "Value"])
    # A plain table, since texts as long as these need lines that break; its cells are Markdown.
    st.table(facts.set_index("Fact").map(texts.markdown))
    elements.download("csv", elements.csv(facts), f"{one.token} facts", "text/csv")
