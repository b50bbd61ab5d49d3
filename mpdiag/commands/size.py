"""Image sizes on the command line."""

import re

from mpdiag.errors import ConfigError

_MAX_PIXELS = 4096 * 4096


def parse_size(text: str) -> tuple[int, int]:
    """Parse (height, width) from text such as 800x1333.

    Raises:
        ConfigError: the text has another form, or the image has no pixel or too many.
    """
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text.lower())
    height, width = map(int, match.groups()) if match else (0, 0)
    if not 0 < height * width <= _MAX_PIXELS:
        raise ConfigError(
            f"--size {text}: give height and width in pixels, such as 800x1333, with at most "
            f"{_MAX_PIXELS:,} pixels"
        )
    return height, width
