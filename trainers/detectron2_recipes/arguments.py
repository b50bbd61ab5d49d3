"""Arguments after a detectron2 YAML: KEY VALUE pairs of detectron2 and KEY=VALUE of mpdiag."""

import re
from collections.abc import Sequence

from mpdiag.errors import ConfigError
from trainers.detectron2_recipes.keys import check_known

_OURS = re.compile(r"[a-z_]+(\.[a-z_]+)*=.*", re.DOTALL)
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")


def split_arguments(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split arguments into detectron2's pairs by key, and mpdiag's KEY=VALUE.

    Raises:
        ConfigError: an argument is neither, or a key has no value or is unknown.
    """
    pairs: dict[str, str] = {}
    settings: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if _OURS.fullmatch(argument):
            settings.append(argument)
            continue
        key, equals, value = argument.partition("=")
        if not _KEY.fullmatch(key):
            raise ConfigError(
                f"{argument!r}: not an override; after a detectron2 YAML write KEY VALUE, e.g. "
                "SOLVER.MAX_ITER 1000, or KEY=VALUE of mpdiag, e.g. data.root=/data"
            )
        given = value if equals else next(rest, None)
        if given is None:
            raise ConfigError(f"{key}: has no value; give one, e.g. SOLVER.MAX_ITER 1000")
        pairs[key] = given
    check_known(pairs)
    return pairs, settings
