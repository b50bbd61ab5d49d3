"""Where the files of a data set are, found by listing folders, not by a look at each file."""

import os
from collections.abc import Sequence
from pathlib import Path

from mpdiag.data.problems import MISSING_FILE, DataProblem, ProblemHandler
from mpdiag.errors import DataError


def require_path(path: Path, what: str, fix: str) -> Path:
    """The path, if something is there; else DataError that names it and the fix."""
    if not path.exists():
        raise DataError(f"{what} is not at {path}: {fix}")
    return path


def choose_root(
    listed_in: Path, names: list[str], roots: Sequence[Path], on_problem: ProblemHandler
) -> Path:
    """The folder that holds the files that `listed_in` names, or most of them; reports the rest."""
    missing = {root: missing_files(root, names) for root in roots}
    root = min(roots, key=lambda root: len(missing[root]))
    lacking = missing[root]
    if not lacking:
        return root
    if len(lacking) == len(names) and len(roots) > 1:
        places = ", ".join(map(str, roots))
        told = (
            f"none of the files that {listed_in} lists, as {names[0]}, is in any of {places}: give"
            " the folder of the images as the root"
        )
    else:
        others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        told = (
            f"{listed_in} lists {lacking[0]}{others} of {len(names)} files, missing in {root}:"
            " fetch what is missing or point to its folder"
        )
    on_problem(DataProblem(MISSING_FILE, told, len(lacking)))
    return root


def missing_files(root: Path, names: list[str]) -> list[str]:
    """Which of the names, relative to `root`, are not there."""
    listings: dict[Path, set[str]] = {}
    missing = []
    for name in names:
        path = root / name
        if path.parent not in listings:
            listings[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        if path.name not in listings[path.parent]:
            missing.append(name)
    return missing
