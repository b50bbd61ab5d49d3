"""The dashboard in a real browser: a server for some runs, and Chromium to look at it."""

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from apps.server import command

# The page is our own and local: no sandbox, so that it also runs as root in a container.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 60
"""Seconds for the server to answer, and for a page to be ready."""
STILL = "[data-testid=stApp][data-test-script-state=notRunning]"


def find_chromium() -> str | None:
    """Path of a Chromium: of $MPDIAG_CHROMIUM, else of the system, else of Playwright itself."""
    named = os.environ.get("MPDIAG_CHROMIUM")
    for name in (named, "chromium", "chromium-browser", "google-chrome"):
        if name and (found := shutil.which(name)):
            return found
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).is_file() else None


@contextmanager
def serving(runs: Sequence[Path]) -> Iterator[str]:
    """Serve the dashboard over `runs` on a free port, and give its address."""
    server, address = _start(runs)
    try:
        yield address
    finally:
        server.terminate()
        server.wait()


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def settle(page: Page) -> None:
    """Wait until the page's script has run and all that it sent is shown."""
    page.wait_for_selector("h1", timeout=PATIENCE * 1000)
    page.wait_for_selector(STILL, timeout=PATIENCE * 1000)
    page.wait_for_function("document.querySelectorAll('[data-testid=stSkeleton]').length === 0")
    page.wait_for_function("[...document.images].every(image => image.complete)")


def photograph(page: Page, output: Path) -> None:
    """Write the whole page, however long, once it stands still."""
    settle(page)
    # The page scrolls inside the window; a window as high as its content shows all of it.
    page.wait_for_function(
        """() => {
            const height = document.querySelector('[data-testid=stMain]').scrollHeight;
            const last = window.lastHeight;
            window.lastHeight = height;
            return height === last;
        }""",
        polling=300,
    )
    width = page.viewport_size["width"]
    for _ in range(2):  # what is drawn to the window's height may grow with it
        height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        page.set_viewport_size({"width": width, "height": height})
        settle(page)
    output.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=output)


def _start(runs: Sequence[Path], attempts: int = 3) -> tuple[subprocess.Popen[bytes], str]:
    """The server's process, once it answers; another port where somebody was quicker to take it."""
    end = time.monotonic() + PATIENCE
    for _ in range(attempts):
        port = _free_port()
        server = subprocess.Popen(command(runs, port, headless=True), stdout=subprocess.DEVNULL)
        while server.poll() is None:
            if _answers(f"http://localhost:{port}/_stcore/health"):
                return server, f"http://localhost:{port}"
            if time.monotonic() > end:
                server.kill()
                server.wait()
                raise TimeoutError(f"the dashboard did not answer within {PATIENCE} s")
            time.sleep(0.1)
    raise OSError("the dashboard's server ended at once")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
