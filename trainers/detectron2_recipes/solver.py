"""The sections `loss`, `optimizer`, `schedule`, and top-level settings.

Source: `train_net.py` in facebookresearch/Mask2Former and IDEA-Research/MP-Former,
`detectron2/solver` and `projects/DeepLab/deeplab/lr_scheduler.py` in facebookresearch/detectron2.
"""

import math
from typing import Any

from mpdiag.checkpoints.detectron2_config import LOSS_KEYS
from trainers.detectron2_recipes.keys import Detectron2Settings

_POLICIES = {"WarmupMultiStepLR": "multistep", "WarmupPolyLR": "poly"}
_INSTANT_DROP = 15000  # steps between the two milestones of SOLVER.INSTANT_DROP


def training_settings(keys: Detectron2Settings) -> dict[str, Any]:
    """Return `loss`, `optimizer`, `schedule`, precision, and intervals in steps."""
    keys.require("MODEL.MASK_FORMER.DEEP_SUPERVISION", True)
    iterations = keys["SOLVER.MAX_ITER"]
    if keys["SOLVER.AMP.ENABLED"]:
        keys.notes.append("SOLVER.AMP.ENABLED: bfloat16; detectron2 uses float16 with loss scaling")
    seed = keys["SEED"]
    if seed >= 0:
        keys.notes.append("SEED: random numbers differ from detectron2's with the same seed")
    _note_evaluation(keys)
    tested = bool(keys["DATASETS.TEST"])
    every = {
        # Period 0 evaluates at the end only, as does the number of all steps.
        "evaluate_every": keys["TEST.EVAL_PERIOD"] or iterations if tested else None,
        **({} if tested else {"layer_metrics_every": None}),
    }
    return {
        "loss": {name: keys[key] for key, name in LOSS_KEYS.items()},
        "optimizer": _optimizer(keys),
        "schedule": {"iterations": iterations, **_warmup(keys), **_lr_policy(keys)},
        "precision": "bf16" if keys["SOLVER.AMP.ENABLED"] else "float32",
        "checkpoint_every": keys["SOLVER.CHECKPOINT_PERIOD"],
        **every,
        **({"seed": seed} if seed >= 0 else {}),
    }


def _optimizer(keys: Detectron2Settings) -> dict[str, Any]:
    keys.require("SOLVER.OPTIMIZER", "ADAMW")
    keys.require("SOLVER.REFERENCE_WORLD_SIZE", 0)
    keys.require("SOLVER.WEIGHT_DECAY_NORM", 0.0)
    keys.require("SOLVER.WEIGHT_DECAY_EMBED", 0.0)
    clip = "SOLVER.CLIP_GRADIENTS"
    norm = math.inf  # no clipping
    if keys[f"{clip}.ENABLED"]:
        keys.require(f"{clip}.CLIP_TYPE", "full_model")
        norm = keys[f"{clip}.CLIP_VALUE"]
        norm = norm if norm > 0 else math.inf
    return {
        "learning_rate": keys["SOLVER.BASE_LR"],
        "weight_decay": keys["SOLVER.WEIGHT_DECAY"],
        "backbone_lr_multiplier": keys["SOLVER.BACKBONE_MULTIPLIER"],
        "clip_norm": norm,
    }


def _warmup(keys: Detectron2Settings) -> dict[str, int]:
    """Return the warm-up; mpdiag's starts at 1 / steps."""
    steps, factor = keys["SOLVER.WARMUP_ITERS"], keys["SOLVER.WARMUP_FACTOR"]
    if factor == 1 or steps < 1:
        return {"warmup_iterations": 0}
    keys.require("SOLVER.WARMUP_METHOD", "linear")
    keys.notes.append(f"SOLVER.WARMUP_FACTOR: warm-up starts at 1/{steps}, not at {factor:g}")
    return {"warmup_iterations": steps}


def _lr_policy(keys: Detectron2Settings) -> dict[str, Any]:
    keys.require("SOLVER.LR_SCHEDULER_NAME", *_POLICIES)
    policy = _POLICIES[keys["SOLVER.LR_SCHEDULER_NAME"]]
    if policy == "poly":
        keys.require("SOLVER.POLY_LR_CONSTANT_ENDING", 0.0)
        return {"policy": policy, "power": keys["SOLVER.POLY_LR_POWER"]}
    milestones = keys["SOLVER.STEPS"]
    if keys["SOLVER.INSTANT_DROP"]:
        first = keys["SOLVER.DROP_EP"]  # a step, despite its name
        milestones = (first, first + _INSTANT_DROP)
    return {
        "policy": policy,
        "milestones": milestones,
        "gammas": (keys["SOLVER.GAMMA"],) * len(milestones),
    }


def _note_evaluation(keys: Detectron2Settings) -> None:
    """Note the keys of evaluation that have no effect."""
    test = "MODEL.MASK_FORMER.TEST"
    for key in ("TEST.AUG.ENABLED", "TEST.PRECISE_BN.ENABLED"):
        if keys[key]:
            keys.notes.append(f"{key}: not supported; evaluation does not use it")
    if keys["TEST.DETECTIONS_PER_IMAGE"] != 100:
        keys.notes.append("TEST.DETECTIONS_PER_IMAGE: AP uses 100 detections per image")
    if keys["INPUT.DATASET_MAPPER_NAME"].endswith(("panoptic", "panoptic_lsj")):
        if keys[f"{test}.INSTANCE_ON"] or keys[f"{test}.SEMANTIC_ON"]:
            keys.notes.append(f"{test}: a panoptic run is evaluated by PQ only, not by AP and mIoU")
        for name in ("OBJECT_MASK_THRESHOLD", "OVERLAP_THRESHOLD"):
            if keys[f"{test}.{name}"] != 0.8:
                keys.notes.append(f"{test}.{name}: PQ uses 0.8, as published for COCO")
