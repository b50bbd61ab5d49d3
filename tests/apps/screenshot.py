"""Save a screenshot of a dashboard page.

    python tests/apps/screenshot.py RUN... --output artifacts/page.png [--path PAGE?KEY=VALUE]

Needs Chromium: see `browser.find_chromium`.
"""

import argparse
import sys
from pathlib import Path

from browser import chromium, find_chromium, screenshot, serve


def main() -> None:
    """Serve the runs, open the page and save a screenshot."""
    parser = argparse.ArgumentParser(description="Save a screenshot of the dashboard.")
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--path", default="", help="page and its state")
    parser.add_argument("--theme", choices=["light", "dark"], default="light")
    parser.add_argument("--width", type=int, default=1280, help="window width in pixels")
    arguments = parser.parse_args()
    found = find_chromium()
    if found is None:
        sys.exit("Chromium not found: install it, or set MPDIAG_CHROMIUM to its path.")
    with serve(arguments.runs) as url, chromium(found) as browser:
        page = browser.new_page(
            viewport={"width": arguments.width, "height": 900}, color_scheme=arguments.theme
        )
        page.goto(f"{url}/{arguments.path}")
        screenshot(page, arguments.output)


if __name__ == "__main__":
    main()
