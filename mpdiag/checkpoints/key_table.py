"""Two-way tables of parameter names, written as pairs of patterns."""

import re
from collections.abc import Iterable


class KeyTable:
    """Map parameter names of mpdiag to those of another library, and back.

    The table is a list of pairs of patterns. The first pattern that matches a name translates it.
    In a pattern, # stands for a number and * for the rest of the name.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Compile pairs (pattern of mpdiag's names, pattern of the other library's names)."""
        pairs = list(pairs)
        self._forward = [_compile(ours, theirs) for ours, theirs in pairs]
        self._inverse = [_compile(theirs, ours) for ours, theirs in pairs]

    def forward(self, name: str) -> str | None:
        """Return the other library's name of mpdiag's `name`, or None if it has none."""
        return _translate(name, self._forward)

    def inverse(self, name: str) -> str | None:
        """Return mpdiag's name of the other library's `name`, or None if it has none."""
        return _translate(name, self._inverse)


def _compile(source: str, target: str) -> tuple[re.Pattern[str], str]:
    pattern = re.escape(source).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)")
    groups = iter(range(1, 10))
    return re.compile(pattern), re.sub(r"[#*]", lambda _: rf"\{next(groups)}", target)


def _translate(name: str, table: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, replacement in table:
        match = pattern.fullmatch(name)
        if match:
            return match.expand(replacement)
    return None
