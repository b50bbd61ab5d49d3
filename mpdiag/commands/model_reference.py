"""Models that a user names on the command line as MODULE:NAME.

Only command-line arguments are read this way. A name in a file, such as run.json, never imports.
"""

import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mpdiag.errors import CheckpointError

if TYPE_CHECKING:
    from mpdiag.checkpoints import CustomModel

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


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
