"""How long the dashboard takes to open a run and to change the image.

    python tests/apps/synthetic_run.py RUN --images 5000
    python tests/apps/speed.py RUN [--browser]

On the server: Streamlit's AppTest runs the page's script, and nothing is cached before. Beside
the clock's seconds stand those of a core, which another program's load changes little. With
`--browser` also in Chromium, from the key to the page that stands still.
"""

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import streamlit as st
from browser import chromium, find_chromium, serving, settle
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from apps.server import PAGE
from mpdiag.store import Run

IMAGES = 7


def main() -> None:
    """Print a line for each measurement."""
    parser = argparse.ArgumentParser(description="Time the dashboard on a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--browser", action="store_true", help="also in Chromium")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # Streamlit's, of being run without a server
    run = arguments.run.resolve()
    # Images all over the run, with and without kept masks.
    ids = Run.open(run).query("SELECT image_id FROM images ORDER BY image_id")["image_id"]
    step = max(len(ids) // (IMAGES + 1), 1)
    images = [int(image_id) for image_id in ids[step::step][:IMAGES]]
    sys.argv = [str(PAGE), str(run)]
    _on_the_server(images)
    if arguments.browser:
        found = find_chromium()
        if found is None:
            sys.exit("There is no Chromium: install it, or name one in MPDIAG_CHROMIUM.")
        _in_the_browser(found, run)


def _on_the_server(images: list[int]) -> None:
    from apps.dashboard import VIEWS  # now that its warnings are off

    _page("overview").run()  # what Python imports once is no matter of a run
    for path in VIEWS:
        if path == "live":
            continue
        st.cache_resource.clear()
        st.cache_data.clear()
        app = _page(path)
        clock, busy = _seconds(app.run)
        _tell(f"server: opens at {path}", [clock], [busy])
    for path, key, values in (
        ("inspector", "image", images),
        ("queries", "query", range(len(images))),
    ):
        app = _page(path).run()
        times = []
        for value in values:
            app.query_params[key] = str(value)
            times.append(_seconds(app.run))
        clocks, cores = zip(*times, strict=True)
        _tell(f"server: another {key} at {path}", clocks, cores)


def _page(path: str) -> AppTest:
    app = AppTest.from_file(PAGE, default_timeout=120)
    app._page_hash = calc_hash(path)
    return app


def _in_the_browser(path: str, run: Path) -> None:
    with serving([run]) as address, chromium(path) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        with _timed("browser: opens the first time"):
            page.goto(address)
            settle(page)
        with _timed("browser: opens again"):
            page.goto(address)
            settle(page)
        page.goto(f"{address}/inspector")
        settle(page)
        times = []
        for _ in range(IMAGES):
            before = page.url
            box = page.locator(".st-key-widget-of-image input")
            box.click()
            box.press("ArrowDown")
            start = time.perf_counter()
            box.press("Enter")
            page.wait_for_url(lambda url, before=before: url != before)
            settle(page)
            times.append(time.perf_counter() - start)
        _tell("browser: another image at inspector", times)


@contextmanager
def _timed(what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    _tell(what, [time.perf_counter() - start])


def _seconds(action: Callable[[], object]) -> tuple[float, float]:
    """Of the clock, and of all cores together."""
    start, busy = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - start, time.process_time() - busy


def _tell(what: str, times: Sequence[float], busy: Sequence[float] = ()) -> None:
    text = f"{what:40} {statistics.median(times):5.2f} s"
    if busy:
        text += f", {statistics.median(busy):5.2f} s of a core"
    if len(times) > 1:
        text += f" (clock from {min(times):.2f} to {max(times):.2f})"
    print(text, flush=True)


if __name__ == "__main__":
    main()
