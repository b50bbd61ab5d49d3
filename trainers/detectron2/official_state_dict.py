"""State dict of a module in the official names."""

from typing import Any

from torch import Tensor, nn

from mpdiag.checkpoints.official_keys import (
    DERIVED_BUFFER_SUFFIX,
    EMPTY_WEIGHT,
    PIXEL_MEAN,
    PIXEL_STD,
    from_official,
    to_official,
)
from mpdiag.checkpoints.saving import official_state_dict

# Entries of official state dicts that are not parameters and follow from the configuration.
_KNOWN = (EMPTY_WEIGHT, PIXEL_MEAN, PIXEL_STD)


def use_official_names(module: nn.Module, path: str, no_object_weight: float) -> None:
    """Make a module save and load official state dicts; it loads those of any version.

    Args:
        module: a module without parameters outside of the Mask2Former at `path`.
        path: path of the Mask2Former in `module`, with a final dot.
        no_object_weight: value of the criterion, which official state dicts contain.
    """

    def to_official_names(
        module: Any, state: dict[str, Tensor], prefix: str, metadata: Any
    ) -> None:
        for name in [name for name in state if name.startswith(prefix + path)]:
            del state[name]
        official = official_state_dict(module.get_submodule(path[:-1]), no_object_weight)
        state.update({prefix + name: tensor for name, tensor in official.items()})
        versions = vars(state).get("_metadata")
        if versions is not None:
            below = f"{prefix}{path.partition('.')[0]}"
            for name in [x for x in versions if x == below or x.startswith(f"{below}.")]:
                del versions[name]
            versions.update({prefix + x: y for x, y in vars(official)["_metadata"].items() if x})

    def from_official_names(module: Any, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in [name for name in state if name.startswith(prefix)]:
            official = name.removeprefix(prefix)
            parameter = from_official(official)
            if parameter is not None and not parameter.endswith(DERIVED_BUFFER_SUFFIX):
                state[f"{prefix}{path}{parameter}"] = state.pop(name)
            elif parameter is not None or official in _KNOWN:
                del state[name]

    def rename_missing_keys(module: Any, differences: Any) -> None:
        """Report missing keys by their official names."""
        differences.missing_keys[:] = [_official(name, path) for name in differences.missing_keys]

    module.register_state_dict_post_hook(to_official_names)
    module.register_load_state_dict_pre_hook(from_official_names)
    module.register_load_state_dict_post_hook(rename_missing_keys)


def _official(name: str, path: str) -> str:
    before, found, parameter = name.partition(path)
    return before + to_official(parameter) if found else name
