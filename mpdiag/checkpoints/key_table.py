"""Two-way tables of parameter names, written as pairs of patterns."""

import re
from collections.abc import Iterable


class KeyTable:
    """Pairs of name patterns of two libraries; the first that fits a name translates it.

    In a pattern, # stands for a number and * for the rest of the name.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        pairs = list(pairs)
        self._there = [_compiled(ours, theirs) for ours, theirs in pairs]
        self._back = [_compiled(theirs, ours) for ours, theirs in pairs]

    def there(self, name: str) -> str | None:
        """The other library's name of our `name`, or None if it has none."""
        return _translate(name, self._there)

    def back(self, name: str) -> str | None:
        """Our name of the other library's `name`, or None if we have none."""
        return _translate(name, self._back)


def _compiled(source: str, target: str) -> tuple[re.Pattern[str], str]:
    pattern = re.escape(source).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)")
    groups = iter(range(1, 10))
    return re.compile(pattern), re.sub(r"[#*]", lambda _: rf"\{next(groups)}", target)


def _translate(name: str, table: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, replacement in table:
        found = pattern.fullmatch(name)
        if found:
            return found.expand(replacement)
    return None
