"""Translation of detectron2 configurations of Mask2Former and MP-Former to recipes."""

from dataclasses import dataclass
from typing import Any

from mpdiag.checkpoints.detectron2_yaml import Values
from mpdiag.config import merge, parse_overrides
from mpdiag.legacy_names import reject_old_keys
from trainers.detectron2_recipes.arguments import split_arguments
from trainers.detectron2_recipes.data import data_settings
from trainers.detectron2_recipes.keys import Detectron2Settings
from trainers.detectron2_recipes.method import method_settings
from trainers.detectron2_recipes.model import check_architecture, model_settings
from trainers.detectron2_recipes.solver import training_settings


@dataclass(frozen=True, slots=True)
class Translation:
    """A translated configuration.

    Attributes:
        settings: values of a TrainConfig that the configuration determines.
        notes: differences to detectron2.
        unknown: keys that neither detectron2 nor the two repositories have; ignored.
    """

    settings: dict[str, Any]
    notes: tuple[str, ...]
    unknown: tuple[str, ...]


def translate(values: Values, source: str) -> Translation:
    """Translate a configuration.

    Args:
        values: nested mapping from `read_detectron2_config`, or a CfgNode. Missing keys have the
            defaults of detectron2, DeepLab and Mask2Former. mpdiag's own key `MPDIAG.SETTINGS`
            overrides the result.
        source: name of the configuration in errors.

    Raises:
        ConfigError: names the first key whose value is not supported.
    """
    keys = Detectron2Settings(values, source)
    check_architecture(keys)
    settings = merge(model_settings(keys), method_settings(keys))
    settings |= {"data": data_settings(keys)} | training_settings(keys)
    own = parse_overrides(keys["MPDIAG.SETTINGS"])
    reject_old_keys(own, f"{source}: MPDIAG.SETTINGS")
    settings = merge(settings, own)
    return Translation(settings, tuple(keys.notes), tuple(keys.unknown()))


__all__ = ["Translation", "split_arguments", "translate"]
