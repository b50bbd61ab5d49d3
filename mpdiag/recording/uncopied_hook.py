"""Forward hooks that `copy.deepcopy` and `torch.save` of a module leave behind."""

from collections.abc import Callable
from typing import Any, Self


class UncopiedHook:
    """A forward hook that has no effect on copies of its module.

    A copy, for example of averaged weights, would otherwise take along what the hook writes to: a
    recorder, or a callback with its trainer and data.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        """Call the function with the arguments of the hook."""
        return self._function(*args)

    def __reduce__(self) -> tuple[type[Self], tuple[Callable[..., Any]]]:
        """Copy and pickle as a hook without effect."""
        return type(self), (_no_effect,)


def _no_effect(*_: Any) -> None:
    return None
