"""The user's explanations of the results, from explanations.md."""

import re
from pathlib import Path

from mpdiag.errors import ConfigError
from mpdiag.untrusted import read_text

EXPLANATIONS_FILE = "explanations.md"

_TARGET = re.compile(r"##\s*([\w-]+)\s*$")
# "ResNet-50" is a name, and the comma of "1,500 steps" separates thousands.
_MEASURED_VALUE = re.compile(
    r"\d+(\.|,(?!\d{3}(?!\d)))\d|\d+\s*%|(?<!\w)[+−-]\d"  # noqa: RUF001
)


def read_explanations(path: Path, targets: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the paragraphs by target, from a file with a heading such as `## table7` above each.

    Raises:
        ConfigError: a heading is not a target, a paragraph has no heading, or a paragraph contains
            a measured value, which belongs in the tables, where it cannot be out of date.
    """
    if not path.exists():
        return {}
    paragraphs: dict[str, list[str]] = {}
    target = None
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a text file in UTF-8") from None
    for number, block in _blocks(text):
        heading = _TARGET.match(block)
        if heading:
            target = heading[1]
        if target not in targets:
            raise ConfigError(
                f"{path}:{number}: {block[:40]!r} is under no target; add a heading such as "
                f"'## {targets[0]}' above it"
            )
        if heading:
            continue
        value = _MEASURED_VALUE.search(block)
        if value:
            raise ConfigError(
                f"{path}:{number}: {value[0]!r} is a measured value; describe in words what the "
                "tables show"
            )
        paragraphs.setdefault(target, []).append(" ".join(block.split()))
    return paragraphs


def _blocks(text: str) -> list[tuple[int, str]]:
    """Return headings and paragraphs with the number of their first line."""
    blocks: list[tuple[int, str]] = []
    lines: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        is_heading = line.startswith("#")
        if lines and (is_heading or not line.strip()):
            blocks.append((number - len(lines), "\n".join(lines)))
            lines = []
        if is_heading:
            blocks.append((number, line.strip()))
        elif line.strip():
            lines.append(line)
    return blocks
