"""Take a picture of the dashboard in a real browser.

    python tests/apps/screenshot.py RUN... --output docs/images/dashboard.png [--theme dark]

Uses the Chromium that `--browser` names, else the one of `python -m playwright install chromium`.
"""

import argparse
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from apps.server import command

# The page is our own and local: no sandbox, so that it also runs as root in a container.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 60
"""Seconds for the server to answer."""
SETTLING = 1500
"""Milliseconds within which the page must not grow."""


def main() -> None:
    """Serve the runs, look at the page, write the picture."""
    parser = argparse.ArgumentParser(description="Take a picture of the dashboard.")
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--theme", choices=["light", "dark"], default="light")
    parser.add_argument("--width", type=int, default=1280, help="of the window, in pixels")
    parser.add_argument("--browser", help="path of a Chromium")
    arguments = parser.parse_args()
    port = _free_port()
    server = subprocess.Popen(
        command(arguments.runs, port, headless=True),
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://localhost:{port}/_stcore/health")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=arguments.browser, args=CHROMIUM_FLAGS
            )
            page = browser.new_page(
                viewport={"width": arguments.width, "height": 900}, color_scheme=arguments.theme
            )
            page.goto(f"http://localhost:{port}")
            _photograph(page, arguments.output)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def _photograph(page: Page, output: Path) -> None:
    """Write the whole page, however long, once it stands still."""
    page.wait_for_selector("h1")
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    # The page scrolls inside the window; a window as high as its content shows all of it.
    shown, height = 0, 1
    while shown != height:
        page.wait_for_timeout(SETTLING)
        shown = height
        height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        page.set_viewport_size({"width": page.viewport_size["width"], "height": height})
    output.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=output)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url):
                return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end:
                sys.exit(f"The dashboard did not answer within {PATIENCE} s.")
            time.sleep(0.3)


if __name__ == "__main__":
    main()
