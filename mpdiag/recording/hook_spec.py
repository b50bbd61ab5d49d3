"""Hook specifications: which module calls produce a named tensor, and how to read it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mpdiag.errors import RecordingError


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a hooked module: its inputs and its output.

    `required` maps the names in `HookSpec.requires` to the values that their hooks read last in
    this forward pass.
    """

    module: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    required: Mapping[str, Any]

    def argument(self, position: int, name: str) -> Any:
        """Return the argument that was passed by name or by position; None if it was not."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[position] if position < len(self.args) else None


@dataclass(frozen=True, slots=True)
class HookSpec:
    """The modules whose calls produce the tensors of one name, and how to read a call.

    Attributes:
        modules: modules to hook. Every call of any of them is read, in call order.
        num_layers: number of layers that one forward pass produces (number of calls, for a name
            that is not canonical). Another number is an error. None: any number.
        read: function from a call to the tensor of its layer, in the shape that
            `mpdiag.recording.CANONICAL_NAMES` gives, or to a list of those of several layers.
        requires: names of other hooks of the same model whose values `read` finds in
            `ModuleCall.required`.
        to_layers: function from all tensors of a pass, in call order, to one tensor per layer.
            None if they are in this form already.
    """

    modules: Sequence[nn.Module]
    num_layers: int | None
    read: Callable[[ModuleCall], Any]
    requires: Sequence[str] = ()
    to_layers: Callable[[list[Tensor]], list[Tensor]] | None = None

    def __post_init__(self) -> None:
        """Raise RecordingError for a module in place of a list; iterating would hook its parts."""
        given: object = self.modules
        if isinstance(given, nn.Module) and not isinstance(given, nn.ModuleList):
            raise RecordingError(
                f"HookSpec of {type(given).__name__}: modules must be a list; give [module]"
            )


HookSpecs = Mapping[str, HookSpec]
"""Name -> hook. A name that is not canonical must be required by another hook."""


def first_output(call: ModuleCall) -> Tensor:
    """Return the output of the module, or its first element if the output is a sequence."""
    tensor: Tensor = call.output if isinstance(call.output, Tensor) else call.output[0]
    return tensor
