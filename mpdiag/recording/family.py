"""Families of models: which module is read by whom. One's own are added by `register`.

A family knows its models by the names of their classes, so that no library is imported that the
user of a model has not imported already.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from mpdiag.errors import RecordingError
from mpdiag.recording.tap import Taps

EXAMPLE = "examples/own_model.py"


class Family(ABC):
    """How the models of one family are read in canonical names.

    `name` is what a recording calls the family; `notes` are sentences that whoever reads its
    numbers must know, for instance that masks were predicted by the recorder, not by the model.
    """

    name: str
    notes: tuple[str, ...] = ()

    @abstractmethod
    def recognises(self, model: nn.Module) -> bool:
        """Whether this very module (not one inside it) is a model of the family."""

    @abstractmethod
    def taps(self, model: Any) -> Taps:
        """Where the tensors of each canonical name pass by in a module that it recognises.

        It may read any attribute: one that is missing is reported as a model built otherwise.
        """


_FAMILIES: list[Family] = []


def register(family: Family) -> Family:
    """Let `mpdiag.record` know a family. It is asked before all that were registered earlier.

    One of the same name is replaced, so that a notebook's cell can run twice. For a model that
    classifies with its module `classify` and predicts masks with `mask_head`, in each layer:

        from mpdiag.recording import Family, Tap, output, register

        class SegmenterFamily(Family):
            name = "my segmenter"

            def recognises(self, model):
                return type(model).__name__ == "Segmenter"

            def taps(self, model):
                layers = len(model.layers) + 1
                return {
                    "class_logits": Tap([model.classify], layers, output),
                    "mask_logits": Tap([model.mask_head], layers, output),
                }

        register(SegmenterFamily())

    Raises:
        RecordingError: it is a class, or anything else than an instance of a `Family`.
    """
    if not isinstance(family, Family):
        raise RecordingError(f"{family!r} is no family: register an instance of one, as F() of F")
    _FAMILIES[:] = [family, *(known for known in _FAMILIES if known.name != family.name)]
    return family


def known_families() -> list[Family]:
    """All that are registered, in the order in which they are asked."""
    return list(_FAMILIES)


def is_a(module: nn.Module, package: str, *names: str) -> bool:
    """Whether a class of this name, of this top-level package, is among the module's classes."""
    return any(
        cls.__name__ in names and cls.__module__.partition(".")[0] == package
        for cls in type(module).__mro__
    )


def family_of(model: nn.Module) -> Family:
    """The family that reads `model`, or the one model inside it that a family knows.

    Raises:
        RecordingError: no family knows it, or it holds several models that one does.
    """
    return find(model)[0]


def find(model: nn.Module) -> tuple[Family, nn.Module]:
    """The family of `model`, and the module in it that the family recognises: often `model`."""
    found: dict[str, tuple[Family, nn.Module]] = {}
    for path, module in model.named_modules():
        if any(not outer or path.startswith(f"{outer}.") for outer in found):
            continue
        family = next((family for family in _FAMILIES if family.recognises(module)), None)
        if family is not None:
            found[path] = (family, module)
    if len(found) == 1:
        return next(iter(found.values()))
    what = _describe(model)
    if found:
        held = ", ".join(f"{path} ({family.name})" for path, (family, _) in found.items())
        raise RecordingError(f"{what} holds {len(found)} models; record one of them: {held}")
    known = ", ".join(family.name for family in _FAMILIES)
    raise RecordingError(
        f"{what} is of no known family, and neither is any module in it; known are {known}. "
        "mpdiag.recording.register teaches the recorder another: ten lines, of which "
        f"help(mpdiag.recording.register) and {EXAMPLE} have an example"
    )


def _describe(model: nn.Module) -> str:
    """The class of a model and its parts, as far as they help to see what it is."""
    children = [f"{name}: {type(child).__name__}" for name, child in model.named_children()]
    listed = ", ".join(children[:8]) + (", ..." if len(children) > 8 else "")
    cls = f"{type(model).__module__}.{type(model).__qualname__}"
    return f"{cls} ({listed})" if children else cls
