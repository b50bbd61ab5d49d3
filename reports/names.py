"""Display names of layers and classes."""

from mpdiag.store import Run

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def layer_symbol(layer: int) -> str:
    """Return the paper's symbol of a layer's predictions: M⁰, M¹, ..."""
    return "M" + str(layer).translate(_SUPERSCRIPTS)


def class_names(run: Run) -> list[str]:
    """Return the names of the run's classes by label, "class 7" for a class without a name."""
    classes = run.header.get("classes")
    entries = classes if isinstance(classes, list) else []
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    return [f"class {label}" if name is None else str(name) for label, name in enumerate(names)]


def class_name(run: Run, label: int) -> str:
    """Return the name of one class, also of a label that run.json does not list."""
    names = class_names(run)
    return names[label] if 0 <= label < len(names) else f"class {label}"
