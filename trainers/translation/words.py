"""The words after a detectron2 YAML on the command line: its KEY VALUE pairs, and our KEY=VALUE."""

import re
from collections.abc import Sequence

from mpdiag.errors import ConfigError
from trainers.translation.keys import check_typed

_OURS = re.compile(r"[a-z_]+(\.[a-z_]+)*=.*", re.DOTALL)
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")


def split_words(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """detectron2's pairs, later ones over earlier ones, and the words that are ours.

    Raises:
        ConfigError: a word is neither, a key has no value, or nothing knows it.
    """
    pairs: dict[str, str] = {}
    ours: list[str] = []
    rest = iter(words)
    for word in rest:
        if _OURS.fullmatch(word):
            ours.append(word)
            continue
        key, equals, value = word.partition("=")
        if not _KEY.fullmatch(key):
            raise ConfigError(
                f"{word!r}: after a detectron2 YAML come its pairs, as SOLVER.MAX_ITER 1000, and "
                "our own settings, as data.root=/data"
            )
        given = value if equals else next(rest, None)
        if given is None:
            raise ConfigError(f"{key} has no value; give one, as SOLVER.MAX_ITER 1000")
        pairs[key] = given
    check_typed(pairs)
    return pairs, ours
