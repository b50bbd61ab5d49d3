"""Models that a user names on the command line as MODULE:NAME.

Only command-line arguments are read this way. A name in a file, such as run.json, never imports.
"""

import difflib
import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mpdiag import torchrun
from mpdiag.errors import CheckpointError

if TYPE_CHECKING:
    from mpdiag.checkpoints import CustomModel

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def require_path(text: str) -> None:
    """Check the path of a checkpoint or run before anything heavy is imported.

    A text that may be a hub id or MODULE:NAME passes, and so does every text under torchrun, where
    each process would print the error.

    Raises:
        CheckpointError: nothing is there, but its folder is; names that are similar.
    """
    path = Path(text)
    if path.exists() or not path.parent.is_dir() or _REFERENCE.fullmatch(text):
        return
    if torchrun.world_size() > 1:
        return
    close = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()])
    hint = f"did you mean {path.parent / close[0]}? Or " if close else ""
    raise CheckpointError(
        f"{text}: no such file or directory; {hint}give a checkpoint file, a directory of a "
        "training, of transformers or of a run, or a hub id"
    )


def resolve_model(text: str) -> "str | CustomModel":
    """Return the model that MODULE:NAME refers to, or `text` if it is a path or hub id.

    NAME is a `CustomModel`, or a function without arguments that returns one.

    Raises:
        CheckpointError: the module cannot be imported, or does not define the model.
    """
    if not _REFERENCE.fullmatch(text) or Path(text).exists():
        return text
    from mpdiag.checkpoints import CustomModel

    module, _, name = text.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise CheckpointError(
            f"{text}: {module} cannot be imported ({error}); correct its name, or add its folder "
            "to PYTHONPATH"
        ) from None
    model = found() if inspect.isroutine(found) else found
    if not isinstance(model, CustomModel):
        raise CheckpointError(
            f"{text}: gives no mpdiag.CustomModel; define {name} as one in {module}, or as a "
            "function that returns one"
        )
    return model
