"""Print text from untrusted sources; needs the standard library alone."""

import unicodedata

_VISIBLE_EFFECT = "\n\u200c\u200d"  # the joiners are part of scripts such as Persian, and of emoji
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: object, limit: int = 1000) -> str:
    """Return a text for terminals, pages and logs: one line, at most `limit` characters.

    Line breaks and tabs become blanks, other characters as in `escape_invisible`. The middle of a
    longer text is left out.
    """
    line = _cut(str(text), limit).translate({ord("\n"): " ", ord("\t"): " "})
    return line if line.isprintable() else _cut(escape_invisible(line), limit)


def escape_invisible(text: str) -> str:
    """Replace control, bidirectional and other invisible characters by escapes such as \\x1b.

    Line breaks stay.
    """
    if text.isprintable():
        return text
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _INVISIBLE or character in _VISIBLE_EFFECT:
        return character
    return character.encode("unicode_escape").decode()


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    start, end = limit // 2 - 2, limit - limit // 2 - 3
    return f"{text[:start]} ... {text[-end:]}"
