"""Models with HookPoint modules of canonical names."""

from typing import Any

from torch import nn

from mpdiag.errors import RecordingError
from mpdiag.recording.canonical_names import CANONICAL_NAMES
from mpdiag.recording.family import Family, is_instance_by_name
from mpdiag.recording.hook_point import HookPoint
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, first_output


def is_mpdiag_mask2former(module: nn.Module) -> bool:
    """Return whether `module` is mpdiag.models.Mask2Former."""
    return is_instance_by_name(module, "mpdiag", "Mask2Former")


class HookPointFamily(Family):
    """Any model that contains `HookPoint` modules of canonical names."""

    name = "mpdiag hook points"

    def matches(self, model: nn.Module) -> bool:
        modules = list(model.modules())
        has_points = any(isinstance(module, HookPoint) for module in modules[1:])
        return has_points and not any(map(is_mpdiag_mask2former, modules))

    def hooks(self, model: Any) -> HookSpecs:
        points: dict[str, HookPoint] = {}
        for path, module in model.named_modules():
            name = path.rpartition(".")[2]
            if isinstance(module, HookPoint) and name in CANONICAL_NAMES:
                if name in points:
                    raise RecordingError(
                        f"{type(model).__name__}: has 2 hook points called {name}; record a module "
                        "that has one"
                    )
                points[name] = module
        # The number of calls is the number of layers; the MP part may not run.
        return {name: HookSpec([point], None, first_output) for name, point in points.items()}
