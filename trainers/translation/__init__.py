"""detectron2's configurations of Mask2Former and MP-Former in the words of our recipes."""

from dataclasses import dataclass
from typing import Any

from mpdiag.checkpoints.detectron2_yaml import Values
from mpdiag.config import merge, overrides
from trainers.translation.data import data_settings
from trainers.translation.keys import Keys
from trainers.translation.model import check_architecture, model_settings
from trainers.translation.piloting import method_settings
from trainers.translation.training import training_settings
from trainers.translation.words import split_words


@dataclass(frozen=True, slots=True)
class Translation:
    """What a configuration comes to.

    Attributes:
        settings: of a TrainConfig, all that the configuration decides.
        notes: sentences on what is not the same.
        unknown: keys that neither detectron2 nor the two repositories have; they were left aside.
    """

    settings: dict[str, Any]
    notes: tuple[str, ...]
    unknown: tuple[str, ...]


def translate(values: Values, source: str) -> Translation:
    """Translate a configuration, as `read_detectron2_config` gives it, or a whole CfgNode.

    Args:
        values: nested; keys that are missing have detectron2's, DeepLab's and Mask2Former's
            defaults. `MPDIAG.SETTINGS`, a key of ours, lies over all of them.
        source: its name for errors.

    Raises:
        ConfigError: the first key whose value has no counterpart here.
    """
    keys = Keys(values, source)
    check_architecture(keys)
    settings = merge(model_settings(keys), method_settings(keys))
    settings |= {"data": data_settings(keys)} | training_settings(keys)
    settings = merge(settings, overrides(keys["MPDIAG.SETTINGS"]))
    return Translation(settings, tuple(keys.notes), tuple(keys.unknown()))


__all__ = ["Translation", "split_words", "translate"]
