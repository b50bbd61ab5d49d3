"""mpdiag's keys in detectron2's configuration, and the translation of a CfgNode."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from mpdiag.checkpoints.detectron2_yaml import (
    META_ARCHITECTURES,
    override,
    read_detectron2_config,
)
from mpdiag.config import TrainConfig, parse
from mpdiag.data.detectron2_catalog import import_module
from mpdiag.errors import ConfigError
from trainers.detectron2_recipes import split_arguments, translate
from trainers.detectron2_recipes.keys import DEFAULTS
from trainers.detectron2_recipes.method import OF_MP_FORMER
from trainers.methods import METHODS, FullTrainConfig, methods_of, needs_label_embedding

# Sections of mpdiag that apply; detectron2's own keys configure the rest.
_SECTIONS = [method.section for method in METHODS.values() if method.section]
_SETTINGS = ["method", *_SECTIONS, "loss", "model", "optimizer", "data.augment"]
META_ARCHITECTURE = META_ARCHITECTURES[1]
# Keys of Mask2Former and MP-Former that the translation does not use.
_UNUSED: dict[str, Any] = {
    "MODEL.MASK_FORMER.ENC_LAYERS": 0,
    "MODEL.MASK_FORMER.LAST_Q_RATIO": 0.0,
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False,
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": False,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": 8,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
    "MODEL.SWIN.PRETRAIN_IMG_SIZE": 224,
    "MODEL.SWIN.USE_CHECKPOINT": False,
}


def add_mpdiag_config(cfg: CfgNode) -> None:
    """Add the missing keys of Mask2Former and MP-Former, and those of mpdiag.

    `MPDIAG.SETTINGS` lists settings of recipes, e.g. "method=piloted", which override the other
    keys. `MPDIAG.IMPORTS` lists modules to import before training; they register data sets. Keys
    that only MP-Former has get no default, because their presence identifies an MP-Former.
    """
    add_deeplab_config(cfg)
    for key, value in (DEFAULTS | _UNUSED).items():
        *groups, last = key.split(".")
        node = cfg
        for group in groups:
            node = node.setdefault(group, CfgNode())
        if key not in OF_MP_FORMER:
            node.setdefault(last, value)
    for group in (cfg.MODEL.MASK_FORMER, cfg.MODEL.DN):
        group.set_new_allowed(True)
    cfg.MPDIAG = CfgNode({"SETTINGS": [], "IMPORTS": []})


def read_cfg(file: Path, arguments: Sequence[str] = ()) -> CfgNode:
    """Read a frozen configuration for the meta-architecture, and import its modules.

    Args:
        file: a YAML file and its bases.
        arguments: KEY VALUE pairs of detectron2, and KEY=VALUE settings of mpdiag.

    Raises:
        ConfigError: the file or an argument can't be read, or has an unknown key.
        DataError: a module in MPDIAG.IMPORTS can't be imported.
    """
    pairs, settings = split_arguments(arguments)
    # The official files have code at INPUT.MIN_SIZE_TRAIN, which yacs would run.
    values = override(read_detectron2_config(file), pairs)
    cfg = get_cfg()
    add_mpdiag_config(cfg)
    try:
        cfg.merge_from_other_cfg(CfgNode(dict(values)))
    except (KeyError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: detectron2 can't read it ({reason:.200})") from None
    cfg.MPDIAG.SETTINGS = [*cfg.MPDIAG.SETTINGS, *settings]
    cfg.MODEL.META_ARCHITECTURE = META_ARCHITECTURE
    for module in cfg.MPDIAG.IMPORTS:
        import_module(module)
    train_config_of(cfg)  # report errors before anything is built
    cfg.freeze()
    return cfg


def train_config_of(cfg: Mapping[str, Any]) -> TrainConfig:
    """Translate a CfgNode to a TrainConfig. detectron2 handles its weights and data sets.

    Raises:
        ConfigError: a value is not supported, or the method does not work in detectron2.
    """
    source = "the configuration"
    for setting in cfg["MPDIAG"]["SETTINGS"]:
        if not any(re.match(rf"{re.escape(name)}[.=]", setting) for name in _SETTINGS):
            raise ConfigError(
                f"{setting}: use detectron2's key under --engine detectron2; of mpdiag's settings "
                f"only {', '.join(_SETTINGS)} apply"
            )
    ignored = {
        "MODEL.WEIGHTS": "",
        "DATASETS.TRAIN": ("from the catalog",),
        "DATASETS.TEST": (),
    }
    recipe = parse(FullTrainConfig, translate(override(cfg, ignored), source).settings, source)
    methods = [method(recipe) for method in methods_of(recipe)]
    if any(True for method in methods for _ in method.parameters()):
        raise ConfigError(
            f"{source}: method {recipe.method} has parameters that official checkpoints can't "
            "hold; train it with --engine mpdiag"
        )
    embedding = recipe.model.label_embedding or needs_label_embedding(recipe)
    model = recipe.model.model_copy(update={"label_embedding": embedding})
    return recipe.model_copy(update={"model": model})
