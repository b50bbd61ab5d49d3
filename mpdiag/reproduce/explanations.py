"""Explanations beside the results, written by people: of which table, and without figures."""

import re
from pathlib import Path

from mpdiag.errors import ConfigError

EXPLANATIONS_FILE = "explanations.md"

_TARGET = re.compile(r"##\s*(\w+)\s*$")
_FIGURE = re.compile(r"\d+[.,]\d|\d+\s*%|[+−-]\d")  # noqa: RUF001


def read_explanations(path: Path, targets: tuple[str, ...]) -> dict[str, list[str]]:
    """Paragraphs by table from a file with a heading `## table7` above each table's.

    Raises:
        ConfigError: a heading names no table, a text stands under none, or a text holds a figure:
            measured numbers are in the tables, where no hand has typed them.
    """
    if not path.is_file():
        return {}
    found: dict[str, list[str]] = {}
    target = None
    for number, block in _blocks(path.read_text(encoding="utf-8")):
        heading = _TARGET.match(block)
        if heading:
            target = heading[1]
        if target not in targets:
            raise ConfigError(
                f"{path}:{number}: {block[:40]!r} is under no table; write a heading such as "
                f"'## {targets[0]}' above it"
            )
        if heading:
            continue
        figure = _FIGURE.search(block)
        if figure:
            raise ConfigError(
                f"{path}:{number}: {figure[0]!r} is a figure typed by hand; say in words what the "
                "tables show"
            )
        found.setdefault(target, []).append(" ".join(block.split()))
    return found


def _blocks(text: str) -> list[tuple[int, str]]:
    """Headings and paragraphs, with the line that each begins on."""
    blocks: list[tuple[int, str]] = []
    lines: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        alone = line.startswith("#")
        if lines and (alone or not line.strip()):
            blocks.append((number - len(lines), "\n".join(lines)))
            lines = []
        if alone:
            blocks.append((number, line.strip()))
        elif line.strip():
            lines.append(line)
    return blocks
