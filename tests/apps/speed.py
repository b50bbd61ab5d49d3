"""Measure how long the dashboard takes to open a run and to change the image.

    python tests/apps/synthetic_run.py RUN --images 5000
    python tests/apps/speed.py RUN [--browser]

Server times: Streamlit's AppTest runs the page's script with empty caches. Each line shows the
wall time and the CPU time, which depends less on other programs. With `--browser`, also measure in
Chromium, from the key press until the page is rendered.
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
from browser import chromium, find_chromium, serve, wait_until_ready
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from apps.server import SCRIPT
from mpdiag.store import Run

NUM_IMAGES = 7


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description="Time the dashboard on a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--browser", action="store_true", help="measure in Chromium, too")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # Streamlit warns that there is no server
    run = arguments.run.resolve()
    # Images from the whole run, with and without saved masks.
    ids = Run.open(run).query("SELECT image_id FROM images ORDER BY image_id")["image_id"]
    step = max(len(ids) // (NUM_IMAGES + 1), 1)
    images = [int(image_id) for image_id in ids[step::step][:NUM_IMAGES]]
    sys.argv = [str(SCRIPT), str(run)]
    _measure_server(images)
    if arguments.browser:
        found = find_chromium()
        if found is None:
            sys.exit("Chromium not found: install it, or set MPDIAG_CHROMIUM to its path.")
        _measure_browser(found, run)


def _measure_server(images: list[int]) -> None:
    from apps.dashboard import VIEWS  # imported after its warnings are disabled

    _page("overview").run()  # imports are not part of the measurement
    for path in VIEWS:
        if path == "live":
            continue
        st.cache_resource.clear()
        st.cache_data.clear()
        app = _page(path)
        wall, cpu = _seconds(app.run)
        _print(f"server: open {path}", [wall], [cpu])
    for path, key, values in (
        ("inspector", "image", images),
        ("queries", "query", range(len(images))),
    ):
        app = _page(path).run()
        times = []
        for value in values:
            app.query_params[key] = str(value)
            times.append(_seconds(app.run))
        walls, cpus = zip(*times, strict=True)
        _print(f"server: another {key} in {path}", walls, cpus)


def _page(path: str) -> AppTest:
    app = AppTest.from_file(SCRIPT, default_timeout=120)
    app._page_hash = calc_hash(path)
    return app


def _measure_browser(path: str, run: Path) -> None:
    with serve([run]) as url, chromium(path) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        with _timed("browser: first page"):
            page.goto(url)
            wait_until_ready(page)
        with _timed("browser: same page again"):
            page.goto(url)
            wait_until_ready(page)
        page.goto(f"{url}/inspector")
        wait_until_ready(page)
        times = []
        for _ in range(NUM_IMAGES):
            before = page.url
            box = page.locator(".st-key-widget-image input")
            box.click()
            box.press("ArrowDown")
            start = time.perf_counter()
            box.press("Enter")
            page.wait_for_url(lambda new, before=before: new != before)
            wait_until_ready(page)
            times.append(time.perf_counter() - start)
        _print("browser: another image in inspector", times)


@contextmanager
def _timed(what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    _print(what, [time.perf_counter() - start])


def _seconds(action: Callable[[], object]) -> tuple[float, float]:
    """Return the wall time and the CPU time of all cores."""
    start, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - start, time.process_time() - cpu


def _print(what: str, times: Sequence[float], cpu: Sequence[float] = ()) -> None:
    text = f"{what:40} {statistics.median(times):5.2f} s"
    if cpu:
        text += f", {statistics.median(cpu):5.2f} s CPU"
    if len(times) > 1:
        text += f" (wall time {min(times):.2f} to {max(times):.2f})"
    print(text, flush=True)


if __name__ == "__main__":
    main()
