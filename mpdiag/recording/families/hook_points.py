"""Models that send their tensors through hook points of canonical names, as ours do."""

from typing import Any

from torch import nn

from mpdiag.errors import RecordingError
from mpdiag.recording.family import Family
from mpdiag.recording.names import CANONICAL
from mpdiag.recording.points import HookPoint
from mpdiag.recording.tap import Tap, Taps, output


class HookPoints(Family):
    """mpdiag's own Mask2Former, and any model with `HookPoint` modules of canonical names."""

    name = "mpdiag hook points"

    def recognises(self, model: nn.Module) -> bool:
        return any(isinstance(module, HookPoint) for module in model.modules())

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
