"""How the dashboard writes things, and names from files so that nothing in them is markup."""

import re

from mpdiag.store import Run

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def markdown(text: str) -> str:
    """Markdown that shows `text` as it is; names from files may hold anything."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def html(text: str) -> str:
    """`text` for a figure: Plotly reads a few HTML tags in titles, labels and hover texts."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def slug(text: str) -> str:
    """`text` in letters, digits, dots and dashes only: for addresses and names of files.

    Of a long one the middle is left out, since its end tells it from its neighbours.
    """
    name = re.sub(r"[^\w.]+", "-", text, flags=re.ASCII).strip("-.").lower()
    return (name if len(name) <= 80 else f"{name[:40]}-{name[-39:]}") or "unnamed"


def layer(index: int) -> str:
    """The paper's symbol of a layer's predictions: M⁰, M¹, ..."""
    return "M" + str(index).translate(SUPERSCRIPTS)


def percent(fraction: float | None) -> str:
    """A fraction with one digit, or a dash for none."""
    return "–" if fraction is None or fraction != fraction else f"{100 * fraction:.1f} %"  # noqa: RUF001


def classes(run: Run) -> list[str]:
    """Names of the run's classes by label; "class 7" for one without."""
    infos = run.header.get("classes")
    names = [info.get("name") if isinstance(info, dict) else None for info in _list(infos)]
    return [f"class {label}" if name is None else str(name) for label, name in enumerate(names)]


def class_name(run: Run, label: int) -> str:
    """The name of one class, also of a label that the run's header does not have."""
    names = classes(run)
    return names[label] if 0 <= label < len(names) else f"class {label}"


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
