"""The dashboard, run by Streamlit: `mpdiag dashboard RUN...`. Opens the runs and shows a page.

A page is a module of apps.views with a function `show(loaded)`; docs/dashboard.md has the rules.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from apps import address, elements
from apps.runs import Loaded, open_all
from apps.views import compare, images, inspector, live, overview, queries, transitions
from mpdiag.errors import MpdiagError

# Less margin than Streamlit leaves, since ten masks stand side by side; and a chart's texts in the
# colour of the theme's text, where Streamlit has a pale grey.
STYLE = """
.stMainBlockContainer { padding: 4.5rem 2.5rem 2rem; }
.stMain h1 { font-size: 1.8rem; padding: 0.25rem 0 0; }
.stMain h2 { font-size: 1.3rem; }
.stPlotlyChart :is(.infolayer, [class$="tick"]) text { fill: currentColor !important; }
"""

View = Callable[[Sequence[Loaded]], None]
# Path in the address -> title, icon and content of a page, in the order of the menu.
VIEWS: dict[str, tuple[str, str, View]] = {
    "overview": ("Overview", ":material/show_chart:", overview.show),
    "images": ("Images", ":material/grid_view:", images.show),
    "inspector": ("Inspector", ":material/layers:", inspector.show),
    "queries": ("Queries", ":material/scatter_plot:", queries.show),
    "transitions": ("Transitions", ":material/swap_horiz:", transitions.show),
    "compare": ("Compare", ":material/compare_arrows:", compare.show),
    "live": ("Live", ":material/play_circle:", live.show),
}


def main(paths: Sequence[str], checkpoint: str | None = None) -> None:
    """Show the page that the address names, for the run directories `paths`.

    `checkpoint` is what the page Live runs at first.
    """
    st.set_page_config(page_title="mpdiag", page_icon=":material/layers:", layout="wide")
    st.html(f"<style>{STYLE}</style>")
    loaded, errors = open_all(paths)
    pages = {path: _page(path, *view, loaded) for path, view in VIEWS.items()}
    address.register(pages)
    live.offer(checkpoint)
    current = st.navigation(list(pages.values()), position="top")
    for problem in errors:
        elements.error(problem)
    if loaded:
        current.run()
        elements.footer()
    else:
        elements.heading("mpdiag", "Find out where a query-based segmenter goes wrong.")
        elements.empty(
            "No run to show. Write one with `mpdiag analyze CHECKPOINT --dataset synthetic "
            "--output RUN`, then look at it with `mpdiag dashboard RUN`."
        )


def _page(path: str, title: str, icon: str, view: View, loaded: Sequence[Loaded]) -> Any:
    def show() -> None:
        try:
            view(loaded)
        except MpdiagError as problem:
            elements.error(problem)
        except Exception as problem:
            # Rows come from strangers, and no page must fall over one of them.
            logging.getLogger(__name__).exception("The page %s failed", path)
            elements.defect(problem)

    default = path == next(iter(VIEWS))
    return st.Page(show, title=title, icon=icon, url_path=path, default=default)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint")
    parser.add_argument("runs", nargs="*")
    given = parser.parse_args()
    main(given.runs, given.checkpoint)
