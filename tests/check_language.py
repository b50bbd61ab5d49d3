"""Fail if a text file of the repository, or its name, contains a forbidden word.

`python tests/check_language.py [PATH...]` is part of `make check`. The words are listed in section
2 of DESIGN.md. They are also found inside snake_case and CamelCase names. The check prints
`file:line: word` and exits with code 1.
"""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

VERBS = ["house", "floor", "mend", "trouble", "subject", "journal", "claim", "lead", "unite", "tap"]
NOUNS = ["room", "door", "stranger", "census"]
FORBIDDEN = {"tell", "tells", "telling", "told", "led", "tapped", "tapping", "censuses"}
FORBIDDEN |= {word + ending for word in VERBS + NOUNS for ending in ("", "s")}
FORBIDDEN |= {word.removesuffix("e") + ending for word in VERBS for ending in ("ed", "ing")}

# Data, legal text, history, names of version 0.1, and this check.
SKIPPED = re.compile(
    r"CHANGELOG\.md|docs/migrating\.md|LICENSE.*|mpdiag/data/labels/.*|reports/data/.*"
    r"|tests/fixtures/.*|mpdiag/legacy_names\.py|tests/(test_)?check_language\.py"
)
# Calls of the floor function, the class "floor" of ADE20K, and pictures in notebooks.
ALLOWED = re.compile(
    r"\.floor\b|::floor\b|\bfloorf?\(|floor_divide|(['\"])floor\1|\"image/png\": \"[^\"]*\""
    r"|data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+"  # pictures in pages
)
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def forbidden_words(text: str) -> Iterator[str]:
    """Yield the forbidden words of a line, in lower case."""
    words = (word.lower() for word in WORD.findall(ALLOWED.sub(" ", text)))
    return (word for word in words if word in FORBIDDEN)


def check(paths: Iterable[str]) -> Iterator[str]:
    """Yield `file:line: word` per forbidden word; line 0 is the file name."""
    for path in paths:
        if SKIPPED.fullmatch(path) or not Path(path).is_file():
            continue
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            lines = []  # a binary file
        for number, line in enumerate([path, *lines]):
            yield from (f"{path}:{number}: {word}" for word in forbidden_words(line))


if __name__ == "__main__":
    command = ["git", "ls-files", "-co", "--exclude-standard", *sys.argv[1:]]
    files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    hits = list(check(files))
    print("\n".join(hits) or "No forbidden words.")
    sys.exit(bool(hits))
