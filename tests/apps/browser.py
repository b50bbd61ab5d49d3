"""Helpers for tests of the dashboard in Chromium."""

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

from apps.server import SCRIPT, command

# Only local pages are opened: without a sandbox, Chromium also runs as root in a container.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT = 60
"""Seconds until the server must answer and a page must be ready."""
SCRIPT_DONE = "[data-testid=stApp][data-test-script-state=notRunning]"


def find_chromium() -> str | None:
    """Return the path of Chromium: $MPDIAG_CHROMIUM, or the system's, or Playwright's, or None."""
    for name in (
        os.environ.get("MPDIAG_CHROMIUM"),
        "chromium",
        "chromium-browser",
        "google-chrome",
    ):
        if name and (path := shutil.which(name)):
            return path
    with sync_playwright() as playwright:
        bundled = playwright.chromium.executable_path
    return bundled if Path(bundled).is_file() else None


@contextmanager
def serve(runs: Sequence[Path], script: Path = SCRIPT) -> Iterator[str]:
    """Serve the dashboard on a free port, and yield its URL; `script` replaces its script."""
    server, url = _start(runs, script)
    try:
        yield url
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


def wait_until_ready(page: Page) -> None:
    """Wait until the page's script has finished and all elements are rendered."""
    page.wait_for_selector("h1", timeout=TIMEOUT * 1000)
    page.wait_for_selector(SCRIPT_DONE, timeout=TIMEOUT * 1000)
    page.wait_for_function("document.querySelectorAll('[data-testid=stSkeleton]').length === 0")
    page.wait_for_function("[...document.images].every(image => image.complete)")


def screenshot(page: Page, output: Path) -> None:
    """Save a screenshot of the whole page."""
    wait_until_ready(page)
    # The page scrolls inside the window, so make the window as high as its content.
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
    for _ in range(2):  # the content may grow with the window
        height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        page.set_viewport_size({"width": width, "height": height})
        wait_until_ready(page)
    output.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=output)


def _start(
    runs: Sequence[Path], script: Path, attempts: int = 3
) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server and wait until it answers; retry if another process took the port."""
    deadline = time.monotonic() + TIMEOUT
    for _ in range(attempts):
        port = _free_port()
        words = [str(script) if x == str(SCRIPT) else x for x in command(runs, port, headless=True)]
        server = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        while server.poll() is None:
            if _answers(f"http://localhost:{port}/_stcore/health"):
                return server, f"http://localhost:{port}"
            if time.monotonic() > deadline:
                server.kill()
                server.wait()
                raise TimeoutError(f"the dashboard did not answer within {TIMEOUT} s")
            time.sleep(0.1)
    raise OSError("the dashboard server exited at once")


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
