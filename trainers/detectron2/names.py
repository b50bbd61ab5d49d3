"""State dicts of a module that holds our model, in the official names."""

from typing import Any

from torch import Tensor, nn

from mpdiag.checkpoints.official_keys import (
    EMPTY_WEIGHT,
    IMPLIED,
    PIXEL_MEAN,
    PIXEL_STD,
    from_official,
    to_official,
)
from mpdiag.checkpoints.saving import official_state

# What official state dicts have beside the parameters: known from configuration or architecture.
_KNOWN = (EMPTY_WEIGHT, PIXEL_MEAN, PIXEL_STD)


def speak_officially(module: nn.Module, path: str, no_object_weight: float) -> None:
    """Give and take the official model's state dict, of any version, in place of the own one.

    Args:
        module: whose only parameters are those of the Mask2Former below `path`.
        path: of the Mask2Former, with the dot at its end.
        no_object_weight: of the criterion, among whose entries it is.
    """

    def give(module: Any, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
        for name in [name for name in state if name.startswith(prefix + path)]:
            del state[name]
        official = official_state(module.get_submodule(path[:-1]), no_object_weight)
        state.update({prefix + name: tensor for name, tensor in official.items()})
        versions = vars(state).get("_metadata")
        if versions is not None:
            below = f"{prefix}{path.partition('.')[0]}"
            for name in [x for x in versions if x == below or x.startswith(f"{below}.")]:
                del versions[name]
            versions.update({prefix + x: y for x, y in vars(official)["_metadata"].items() if x})

    def take(module: Any, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in [name for name in state if name.startswith(prefix)]:
            official = name.removeprefix(prefix)
            ours = from_official(official)
            if ours is not None and not ours.endswith(IMPLIED):
                state[f"{prefix}{path}{ours}"] = state.pop(name)
            elif ours is not None or official in _KNOWN:
                del state[name]

    def tell(module: Any, differences: Any) -> None:
        """What is missing, by the names that the reader of the message knows."""
        differences.missing_keys[:] = [_official(name, path) for name in differences.missing_keys]

    module.register_state_dict_post_hook(give)
    module.register_load_state_dict_pre_hook(take)
    module.register_load_state_dict_post_hook(tell)


def _official(name: str, path: str) -> str:
    before, found, ours = name.partition(path)
    return before + to_official(ours) if found else name
