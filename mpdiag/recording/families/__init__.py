"""Built-in model families, one per file; a new file in this package needs no other edit."""

import inspect
from importlib import import_module
from pkgutil import iter_modules

from mpdiag.recording.family import Family


def built_in_families() -> list[Family]:
    """Return an instance of each concrete family class defined in a module of this package."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return [
        cls()
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type)
        and issubclass(cls, Family)
        and cls.__module__ == module.__name__
        and not inspect.isabstract(cls)
    ]
