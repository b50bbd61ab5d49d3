"""Take a picture of a page of the dashboard in a real browser.

    python tests/apps/screenshot.py RUN... --output artifacts/page.png [--path PAGE?KEY=VALUE]

Uses the Chromium that `browser.find_chromium` finds.
"""

import argparse
import sys
from pathlib import Path

from browser import chromium, find_chromium, photograph, serving


def main() -> None:
    """Serve the runs, look at the page, write the picture."""
    parser = argparse.ArgumentParser(description="Take a picture of the dashboard.")
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--path", default="", help="of the address: a page and its state")
    parser.add_argument("--theme", choices=["light", "dark"], default="light")
    parser.add_argument("--width", type=int, default=1280, help="of the window, in pixels")
    arguments = parser.parse_args()
    found = find_chromium()
    if found is None:
        sys.exit("There is no Chromium: install it, or name one in MPDIAG_CHROMIUM.")
    with serving(arguments.runs) as address, chromium(found) as browser:
        page = browser.new_page(
            viewport={"width": arguments.width, "height": 900}, color_scheme=arguments.theme
        )
        page.goto(f"{address}/{arguments.path}")
        photograph(page, arguments.output)


if __name__ == "__main__":
    main()
