"""Text of the dashboard, and escaping of names that come from untrusted files."""

import re

from reports import formatting


def escape_markdown(text: str) -> str:
    """Escape `text` so that Streamlit's Markdown shows it unchanged."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def escape_html(text: str) -> str:
    """Escape `text` for Plotly, which renders HTML tags in titles, labels and hover texts."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def shorten(text: str, length: int = 20) -> str:
    """Return the first `length` characters of a longer text, the last of them an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def slugify(text: str) -> str:
    """Convert `text` to letters, digits, dots and dashes, for URLs and file names.

    A text of more than 80 characters keeps its start and end: similar names differ at the end.
    """
    name = re.sub(r"[^\w.]+", "-", text, flags=re.ASCII).strip("-.").lower()
    return (name if len(name) <= 80 else f"{name[:40]}-{name[-39:]}") or "unnamed"


def format_percent(fraction: float | None) -> str:
    """Format a fraction as percent with one decimal; a dash for None and NaN."""
    text = formatting.format_percent(fraction, missing="")
    return f"{text}%" if text else formatting.UNAVAILABLE
