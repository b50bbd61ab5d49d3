"""The Streamlit script of the dashboard: opens the runs and renders the page of the URL.

A page is a module of apps.views with a function `render(runs)`; see docs/dashboard.md.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from apps import components, url_state
from apps.runs import LoadedRun, open_runs
from apps.style import STYLE
from apps.views import compare, diagnosis, images, inspector, live, overview, queries, transitions
from mpdiag.errors import MpdiagError

# Not a Material icon: browsers would fetch it from a font host.
PAGE_ICON = "📊"
View = Callable[[Sequence[LoadedRun]], None]
# URL path -> title, icon and function of a page, in the order of the menu.
VIEWS: dict[str, tuple[str, str, View]] = {
    "diagnosis": ("Diagnosis", ":material/troubleshoot:", diagnosis.render),
    "overview": ("Overview", ":material/show_chart:", overview.render),
    "images": ("Images", ":material/grid_view:", images.render),
    "inspector": ("Inspector", ":material/layers:", inspector.render),
    "queries": ("Queries", ":material/scatter_plot:", queries.render),
    "transitions": ("Transitions", ":material/swap_horiz:", transitions.render),
    "compare": ("Compare", ":material/compare_arrows:", compare.render),
    "live": ("Live", ":material/play_circle:", live.render),
}


def main(paths: Sequence[str], checkpoint: str | None = None, device: str | None = None) -> None:
    """Render the page of the URL for the run directories `paths`.

    `checkpoint` is the default of the Live page, which runs it on `device`.
    """
    st.set_page_config(page_title="mpdiag", page_icon=PAGE_ICON, layout="wide")
    st.html(f"<style>{STYLE}</style>")
    runs, errors = open_runs(paths)
    pages = {path: _page(path, *view, runs) for path, view in VIEWS.items()}
    live.set_model(checkpoint, device)
    current = st.navigation(list(pages.values()), position="top")
    url_state.register_pages(pages, current.url_path or next(iter(VIEWS)))
    for error in errors:
        components.show_error(error)
    if runs:
        current.run()
        components.page_footer()
    else:
        components.page_header(
            "mpdiag", "Layer-by-layer diagnosis of query-based segmentation models."
        )
        components.show_empty(
            "No run to show. Create one with `mpdiag analyze CHECKPOINT --dataset NAME`, then "
            "start `mpdiag dashboard RUN`."
        )


def _page(path: str, title: str, icon: str, view: View, runs: Sequence[LoadedRun]) -> Any:
    def render() -> None:
        try:
            view(runs)
        except MpdiagError as error:
            components.show_error(error)
        except Exception as error:
            # Rows are untrusted: a damaged run must not break the dashboard.
            logging.getLogger(__name__).exception("Page %s failed", path)
            components.show_unexpected_error(error)

    default = path == next(iter(VIEWS))
    return st.Page(render, title=title, icon=icon, url_path=path, default=default)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint")
    parser.add_argument("--device")
    parser.add_argument("runs", nargs="*")
    arguments = parser.parse_args()
    main(arguments.runs, arguments.checkpoint, arguments.device)
