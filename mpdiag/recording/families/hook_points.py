"""Models that send their tensors through hook points of canonical names, as ours do."""

from typing import Any

from torch import nn

from mpdiag.errors import RecordingError
from mpdiag.recording.family import Family, is_a
from mpdiag.recording.names import CANONICAL
from mpdiag.recording.points import HookPoint
from mpdiag.recording.tap import Tap, Taps, output


def is_ours(module: nn.Module) -> bool:
    return is_a(module, "mpdiag", "Mask2Former")


class HookPoints(Family):
    """Any model with `HookPoint` modules of canonical names."""

    name = "mpdiag hook points"

    def recognises(self, model: nn.Module) -> bool:
        inside = list(model.modules())[1:]
        return any(isinstance(x, HookPoint) for x in inside) and not any(is_ours(x) for x in inside)

    def taps(self, model: Any) -> Taps:
        points: dict[str, HookPoint] = {}
        for path, module in model.named_modules():
            name = path.rpartition(".")[2]
            if isinstance(module, HookPoint) and name in CANONICAL:
                if name in points:
                    raise RecordingError(
                        f"{type(model).__name__} holds 2 hook points called {name}; record the "
                        "module that holds only one"
                    )
                points[name] = module
        # The model says by its calls how many layers it has; the MP part may be absent.
        return {
            name: Tap([point], None, output) for name, point in points.items() if name in CANONICAL
        }
