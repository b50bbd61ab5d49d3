"""Our keys in detectron2's configuration, and what a whole configuration comes to in our words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from mpdiag.checkpoints.detectron2_yaml import (
    META_ARCHITECTURES,
    lay_over,
    read_detectron2_config,
)
from mpdiag.config import TrainConfig, parse
from mpdiag.data.catalog import import_module
from mpdiag.errors import ConfigError
from trainers.methods import needs_label_embedding
from trainers.translation import split_words, translate
from trainers.translation.keys import DEFAULTS
from trainers.translation.piloting import OF_MP_FORMER

# Settings of ours that count; the rest of a training is detectron2's, by its own keys.
_OURS = ("method", "pilot.", "loss.", "model.", "optimizer.", "data.augment.")
META_ARCHITECTURE = META_ARCHITECTURES[1]
# Of Mask2Former's and MP-Former's keys those that our translation has no use for.
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
    """Add the keys of Mask2Former and MP-Former that are not there yet, and ours.

    `MPDIAG.SETTINGS` are settings of our recipes, as "method=piloted", laid over what the other
    keys come to. `MPDIAG.IMPORTS` are modules to import before the training, which register data
    sets. Keys of MP-Former alone get no default: whether they are there says whose model it is.
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


def read_cfg(file: Path, words: Sequence[str] = ()) -> CfgNode:
    """A frozen configuration of our meta-architecture, its modules imported.

    Args:
        file: a YAML of Mask2Former, MP-Former or one's own, with its bases.
        words: KEY VALUE pairs of detectron2's keys, and KEY=VALUE settings of ours.

    Raises:
        ConfigError: the file or a word can't be read, or sets a key that nothing has.
        DataError: a module in MPDIAG.IMPORTS can't be imported.
    """
    pairs, ours = split_words(words)
    # By our reader: the released files have code at INPUT.MIN_SIZE_TRAIN, which yacs would run.
    values = lay_over(read_detectron2_config(file), pairs)
    cfg = get_cfg()
    add_mpdiag_config(cfg)
    try:
        cfg.merge_from_other_cfg(CfgNode(dict(values)))
    except (KeyError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: detectron2 does not take it ({reason:.200})") from None
    cfg.MPDIAG.SETTINGS = [*cfg.MPDIAG.SETTINGS, *ours]
    cfg.MODEL.META_ARCHITECTURE = META_ARCHITECTURE
    for module in cfg.MPDIAG.IMPORTS:
        import_module(module)
    recipe_of(cfg)  # a mistake is told before anything is built
    cfg.freeze()
    return cfg


def recipe_of(cfg: Mapping[str, Any]) -> TrainConfig:
    """What a configuration comes to in our words.

    Weights and data sets are left to detectron2's checkpointer and catalogs.

    Raises:
        ConfigError: a key has a value that has no counterpart, or the method none in detectron2.
    """
    source = "the configuration"
    for setting in cfg["MPDIAG"]["SETTINGS"]:
        if not setting.startswith(_OURS):
            raise ConfigError(
                f"{setting}: under --engine detectron2 its own keys decide that; of ours count "
                "method, pilot, loss, model, optimizer and data.augment"
            )
    left = {
        "MODEL.WEIGHTS": "",
        "DATASETS.TRAIN": ("the catalogs'",),
        "DATASETS.TEST": (),
    }
    recipe = parse(TrainConfig, translate(lay_over(cfg, left), source).settings, source)
    if recipe.method == "per-pixel" or recipe.pilot.feed == "mask-code":
        raise ConfigError(
            f"{source}: method {recipe.method} with feed {recipe.pilot.feed} trains parameters "
            "that the official names have no place for; train it with --engine mpdiag"
        )
    embedding = recipe.model.label_embedding or needs_label_embedding(recipe)
    model = recipe.model.model_copy(update={"label_embedding": embedding})
    return recipe.model_copy(update={"model": model})
