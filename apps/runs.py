"""The runs that the dashboard was started with. Pages read no other files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import streamlit as st

from apps.formatting import slugify
from mpdiag.errors import RunError
from mpdiag.store import Run
from reports.formatting import part_name
from reports.table1 import run_labels

P = ParamSpec("P")
R = TypeVar("R")

CACHE_ENTRIES = 512
"""Number of results that each cached function keeps. Fewer than there are runs would keep none."""
LOADING = "Reading the run ..."


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """An open run with its display name."""

    run: Run
    name: str
    """Display name: the run's name and part, unique among the loaded runs."""
    slug: str
    """Unique name for URLs and file names: letters, digits, dots and dashes."""
    modified: float
    """Modification time of run.json; part of the cache key."""


def cached(function: Callable[P, R]) -> Callable[P, R]:
    """Cache the last results of a function of `LoadedRun`s and plain values.

    While the function runs, the page shows LOADING.
    """
    decorate = st.cache_data(
        show_spinner=LOADING,
        max_entries=CACHE_ENTRIES,
        hash_funcs={LoadedRun: lambda loaded: (str(loaded.run.path), loaded.modified)},
    )
    return decorate(function)


def open_runs(paths: Sequence[str]) -> tuple[list[LoadedRun], list[RunError]]:
    """Open the run directories; return the readable runs and the errors of the others."""
    opened, errors = [], []
    for path in dict.fromkeys(paths):
        modified = _modification_time(path)
        try:
            opened.append((_open(path, modified), modified))
        except RunError as error:
            errors.append(error)
    runs = [run for run, _ in opened]
    names = [
        f"{label}, {part_name(str(run.header.get('part')))}"
        for label, run in zip(run_labels(runs), runs, strict=True)
    ]
    return [
        LoadedRun(run, name, slug, modified)
        for (run, modified), name, slug in zip(opened, names, _slugs(names), strict=True)
    ], errors


@st.cache_resource(show_spinner=LOADING, max_entries=CACHE_ENTRIES)
def _open(path: str, modified: float) -> Run:
    """Open a run; `modified` is part of the cache key, so that a rewritten run is opened again."""
    return Run.open(Path(path))


def _modification_time(path: str) -> float:
    try:
        return (Path(path) / "run.json").stat().st_mtime
    except OSError:
        return 0.0


def _slugs(names: Sequence[str]) -> list[str]:
    """Return a slug for each name, with a number where two names have the same slug."""
    slugs: list[str] = []
    for name in names:
        slug = base = slugify(name)
        number = 1
        while slug in slugs:
            number += 1
            slug = f"{base}-{number}"
        slugs.append(slug)
    return slugs
