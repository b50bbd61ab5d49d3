"""Folders that mpdiag generates: created atomically, and kept if their settings are the same."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mpdiag.errors import DataError, describe_os_error
from mpdiag.untrusted import read_json

Progress = Callable[[int, int], None]
"""Called with (images done, total)."""


def generate_folder(
    directory: Path, manifest: str, settings: Mapping[str, Any], write: Callable[[Path], None]
) -> bool:
    """Create a folder with the data of these settings; keep one that has them already.

    Args:
        directory: absolute path of the folder.
        manifest: name of the JSON file in it that has `settings`, such as `tiles.json`.
        settings: values that the data depend on.
        write: writes the data and the manifest to an existing folder, which then becomes
            `directory`.

    Returns:
        Whether the folder was created.

    Raises:
        DataError: the folder has other files or other settings, or cannot be written.
    """
    try:
        if _is_complete(directory, manifest, settings):
            return False
        directory.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{directory.name}-"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=directory.parent) as scratch:
            draft = Path(scratch) / directory.name
            draft.mkdir()
            write(draft)
            try:
                draft.rename(directory)
            except OSError:
                # Another process, for example of the same training, may have created it first.
                if not _is_complete(directory, manifest, settings):
                    raise
    except OSError as error:
        raise DataError(
            f"{directory}: cannot be written ({describe_os_error(error, directory)}); choose a "
            "writable directory with enough disk space"
        ) from None
    return True


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file and flush it to the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, separators=(",", ":")))
        file.flush()
        os.fsync(file.fileno())


def _is_complete(directory: Path, manifest: str, settings: Mapping[str, Any]) -> bool:
    """Return whether the folder has the data of these settings; DataError for other files."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    kind = manifest.removesuffix(".json")
    try:
        found = read_json(directory / manifest)
    except (OSError, ValueError):
        raise DataError(
            f"{directory}: contains files other than {kind} data; choose another directory"
        ) from None
    if found != settings:
        raise DataError(
            f"{directory}: contains {kind} data of other settings ({_format(found)}, not "
            f"{_format(settings)}); choose another directory or delete it"
        )
    return True


def _format(settings: Any) -> str:
    if not isinstance(settings, Mapping):
        return "unreadable"
    return " ".join(f"{key}={value}" for key, value in settings.items())
