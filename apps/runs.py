"""The runs that the dashboard was started with: opened once, named, and the only ones it reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import streamlit as st

from apps import texts
from mpdiag.errors import RunError
from mpdiag.store import Run
from reports.cells import part_name
from reports.table1 import labels

P = ParamSpec("P")
R = TypeVar("R")

CACHE_ENTRIES = 64
"""Results that each cached function keeps."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A run that the pages may show."""

    run: Run
    name: str
    """For people: the run's name and its part, told apart from all others."""
    token: str
    """The same for addresses and names of files: letters, digits, dots and dashes."""
    written: float
    """When run.json was written; with the path it tells caches what they hold."""


def _identity(loaded: Loaded) -> tuple[str, float]:
    return str(loaded.run.path), loaded.written


def cached(function: Callable[P, R]) -> Callable[P, R]:
    """Keep the last results of a function over `Loaded`s and plain values: small ones only."""
    decorate = st.cache_data(
        show_spinner=False, max_entries=CACHE_ENTRIES, hash_funcs={Loaded: _identity}
    )
    return decorate(function)


def open_all(paths: Sequence[str]) -> tuple[list[Loaded], list[RunError]]:
    """The runs that can be read, and what is wrong with the others."""
    found, errors = [], []
    for path in dict.fromkeys(paths):
        written = _written(path)
        try:
            found.append((_open(path, written), written))
        except RunError as error:
            errors.append(error)
    runs = [run for run, _ in found]
    names = [
        f"{label}, {part_name(str(run.header.get('part')))}"
        for label, run in zip(labels(runs), runs, strict=True)
    ]
    return [
        Loaded(run, name, token, written)
        for (run, written), name, token in zip(found, names, _tokens(names), strict=True)
    ], errors


@st.cache_resource(show_spinner=False, max_entries=64)
def _open(path: str, written: float) -> Run:
    """`written` makes a run that was analysed anew another entry of the cache."""
    return Run.open(Path(path))


def _written(path: str) -> float:
    try:
        return (Path(path) / "run.json").stat().st_mtime
    except OSError:
        return 0.0


def _tokens(names: Sequence[str]) -> list[str]:
    """A token for each name, numbered where two names come to the same."""
    tokens: list[str] = []
    for name in names:
        token = base = texts.slug(name)
        number = 1
        while token in tokens:
            number += 1
            token = f"{base}-{number}"
        tokens.append(token)
    return tokens
