"""Find the files of a data set by listing folders, which is faster than testing each file."""

import os
from collections.abc import Sequence
from pathlib import Path

from mpdiag.choices import Task
from mpdiag.data.problems import MISSING_FILE, DataProblem, ProblemHandler
from mpdiag.errors import DataError

_SPLIT_FOLDERS = {
    "train": ("train", "training", "stage1_train"),
    "val": ("val", "valid", "validation"),
}


def require_path(path: Path, what: str, fix: str) -> Path:
    """Return the path if it exists, else raise DataError with what is missing and the fix."""
    if not path.exists():
        raise DataError(f"{path}: not found ({what}); {fix}")
    return path


def training_or_validation(dataset: str, split: str) -> str:
    """Return the folder name of the split "train" or "val"; DataError for another split."""
    folders = {"train": "training", "val": "validation"}
    if split not in folders:
        raise DataError(f"{dataset} has no split {split}; choose {' or '.join(folders)}")
    return folders[split]


def split_names(split: str) -> tuple[str, ...]:
    """Return the names that the folder of a split may have."""
    return _SPLIT_FOLDERS.get(split, (split,))


def split_folder(folder: Path, split: str) -> Path:
    """Return the subfolder of a split: SPLIT, or for "train" and "val" a common other name.

    Raises:
        DataError: there is no such folder.
    """
    for name in split_names(split):
        if (folder / name).is_dir():
            return folder / name
    found = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or "none"
    raise DataError(f"{folder}: has no folder of split {split} (folders: {found}); choose a split")


def require_instance_task(folder: Path, task: Task) -> None:
    """Raise DataError for a task that a data set of instances does not have."""
    if task != "instance":
        raise DataError(f"{folder}: has instances only; choose task instance, not {task}")


def find_files(
    listed_in: Path, names: list[str], roots: Sequence[Path], on_problem: ProblemHandler
) -> tuple[Path, list[str]]:
    """Return a folder, and the names of all files relative to it; report missing files.

    The folder is one of the candidates or, if each of them has a part of the files, the folder
    that contains them. See `choose_root`.
    """
    missing_in = {root: missing_files(root, names) for root in roots}
    absent = {root: set(missing) for root, missing in missing_in.items()}
    if all(absent.values()) and not set.intersection(*absent.values()):
        ranked = sorted(roots, key=lambda root: len(absent[root]))
        parent = Path(os.path.commonpath([root.absolute() for root in roots]))
        found = (next(root for root in ranked if name not in absent[root]) for name in names)
        paths = [root.absolute() / name for root, name in zip(found, names, strict=True)]
        return parent, [path.relative_to(parent).as_posix() for path in paths]
    return _choose_root(listed_in, names, missing_in, on_problem), names


def choose_root(
    listed_in: Path, names: list[str], roots: Sequence[Path], on_problem: ProblemHandler
) -> Path:
    """Return the folder that contains most of the files, and report the missing ones.

    Args:
        listed_in: annotation file that lists the files, for messages.
        names: file names relative to the folder.
        roots: candidate folders.
        on_problem: called if files are missing.
    """
    missing_in = {root: missing_files(root, names) for root in roots}
    return _choose_root(listed_in, names, missing_in, on_problem)


def _choose_root(
    listed_in: Path,
    names: list[str],
    missing_in: dict[Path, list[str]],
    on_problem: ProblemHandler,
) -> Path:
    root = min(missing_in, key=lambda root: len(missing_in[root]))
    missing = missing_in[root]
    if not missing:
        return root
    if len(missing) == len(names) and len(missing_in) > 1:
        message = (
            f"{listed_in}: none of its files (for example {names[0]}) is in "
            f"{', '.join(map(str, missing_in))}; set the root to the image folder"
        )
    else:
        message = (
            f"{listed_in}: {len(missing)} of {len(names)} files are missing in {root}, for example "
            f"{missing[0]}; download them or correct the image folder"
        )
    on_problem(DataProblem(MISSING_FILE, message, len(missing)))
    return root


def missing_files(root: Path, names: list[str]) -> list[str]:
    """Return the names, relative to `root`, of files that do not exist."""
    listings: dict[Path, set[str]] = {}
    missing = []
    for name in names:
        path = root / name
        if path.parent not in listings:
            try:
                listings[path.parent] = set(os.listdir(path.parent))
            except (OSError, ValueError):  # no folder, or a name that cannot be one
                listings[path.parent] = set()
        if path.name not in listings[path.parent]:
            missing.append(name)
    return missing
