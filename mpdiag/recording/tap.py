"""Where a named tensor passes by in a model that is not ours: taps, and the calls they see."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tapped module: what went in, and what came out.

    `seen` holds what the taps that the reading tap `needs` have read last in this forward pass.
    """

    module: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    seen: Mapping[str, Any]

    def argument(self, position: int, name: str) -> Any:
        """The argument called `name`, however it was given; None if it was not."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[position] if position < len(self.args) else None


@dataclass(frozen=True, slots=True)
class Tap:
    """The modules that make the tensors of one name, and how to read them.

    Attributes:
        modules: each call of any of them is read, in the order of the calls.
        count: how many layers one forward pass makes (calls, where the name isn't canonical);
            another number is refused. None: unknown.
        read: from a call to the tensor of its layer, in the shape that
            `mpdiag.recording.CANONICAL` gives, or to a list of tensors of several layers.
        needs: names of other taps of the same model, which `read` finds in `Call.seen`.
        gather: from all tensors of a pass, in the order of the calls, to those of its layers;
            None where they are.
    """

    modules: Sequence[nn.Module]
    count: int | None
    read: Callable[[Call], Any]
    needs: Sequence[str] = ()
    gather: Callable[[list[Tensor]], list[Tensor]] | None = None


Taps = Mapping[str, Tap]
"""Canonical name -> tap. A name that isn't canonical is only read where another tap needs it."""


def output(call: Call) -> Tensor:
    """What the module returned, or the first part of it."""
    return first(call.output)


def first(value: Any) -> Tensor:
    """A tensor, or the first of those that a module returned together."""
    tensor: Tensor = value if isinstance(value, Tensor) else value[0]
    return tensor
