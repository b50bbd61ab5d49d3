"""Losses, optimizer, schedule and the rest of a training.

How the keys are read: `train_net.py` in facebookresearch/Mask2Former and IDEA-Research/MP-Former,
`detectron2/solver` and `projects/DeepLab/deeplab/lr_scheduler.py` in facebookresearch/detectron2.
"""

import math
from typing import Any

from mpdiag.checkpoints.detectron2_config import LOSS_KEYS
from trainers.translation.keys import Keys

_DECLINES = {"WarmupMultiStepLR": "steps", "WarmupPolyLR": "poly"}
_INSTANT_DROP = 15000  # steps between the two drops that SOLVER.INSTANT_DROP makes


def training_settings(keys: Keys) -> dict[str, Any]:
    """`loss`, `optimizer`, `schedule`, precision, and what happens every so many steps."""
    keys.need("MODEL.MASK_FORMER.DEEP_SUPERVISION", True)
    iterations = keys["SOLVER.MAX_ITER"]
    if keys["SOLVER.AMP.ENABLED"]:
        keys.notes.append("SOLVER.AMP.ENABLED: bfloat16, where detectron2 scales a float16 loss")
    seed = keys["SEED"]
    if seed >= 0:
        keys.notes.append("SEED: the same seed gives other numbers than in detectron2")
    _note_evaluation(keys)
    tested = bool(keys["DATASETS.TEST"])
    every = {
        # Period 0 evaluates at the end alone, and so does one of all steps.
        "evaluate_every": keys["TEST.EVAL_PERIOD"] or iterations if tested else None,
        **({} if tested else {"diagnose_every": None}),
    }
    return {
        "loss": {name: keys[key] for key, name in LOSS_KEYS.items()},
        "optimizer": _optimizer(keys),
        "schedule": {"iterations": iterations, **_warmup(keys), **_decline(keys)},
        "precision": "bf16" if keys["SOLVER.AMP.ENABLED"] else "float32",
        "checkpoint_every": keys["SOLVER.CHECKPOINT_PERIOD"],
        **every,
        **({"seed": seed} if seed >= 0 else {}),
    }


def _optimizer(keys: Keys) -> dict[str, Any]:
    keys.need("SOLVER.OPTIMIZER", "ADAMW")
    keys.need("SOLVER.REFERENCE_WORLD_SIZE", 0)
    keys.need("SOLVER.WEIGHT_DECAY_NORM", 0.0)
    keys.need("SOLVER.WEIGHT_DECAY_EMBED", 0.0)
    clip = "SOLVER.CLIP_GRADIENTS"
    norm = math.inf  # no clipping
    if keys[f"{clip}.ENABLED"]:
        keys.need(f"{clip}.CLIP_TYPE", "full_model")
        norm = keys[f"{clip}.CLIP_VALUE"]
        norm = norm if norm > 0 else math.inf
    return {
        "learning_rate": keys["SOLVER.BASE_LR"],
        "weight_decay": keys["SOLVER.WEIGHT_DECAY"],
        "backbone_multiplier": keys["SOLVER.BACKBONE_MULTIPLIER"],
        "clip_norm": norm,
    }


def _warmup(keys: Keys) -> dict[str, int]:
    """None where it begins at the full rate; ours rises from 1 / steps."""
    steps, factor = keys["SOLVER.WARMUP_ITERS"], keys["SOLVER.WARMUP_FACTOR"]
    if factor == 1 or steps < 1:
        return {"warmup": 0}
    keys.need("SOLVER.WARMUP_METHOD", "linear")
    keys.notes.append(f"SOLVER.WARMUP_FACTOR: the rate rises from 1/{steps}, not from {factor:g}")
    return {"warmup": steps}


def _decline(keys: Keys) -> dict[str, Any]:
    keys.need("SOLVER.LR_SCHEDULER_NAME", *_DECLINES)
    decline = _DECLINES[keys["SOLVER.LR_SCHEDULER_NAME"]]
    if decline == "poly":
        keys.need("SOLVER.POLY_LR_CONSTANT_ENDING", 0.0)
        return {"decline": decline, "power": keys["SOLVER.POLY_LR_POWER"]}
    drops = keys["SOLVER.STEPS"]
    if keys["SOLVER.INSTANT_DROP"]:
        first = keys["SOLVER.DROP_EP"]  # a step, whatever its name
        drops = (first, first + _INSTANT_DROP)
    return {"decline": decline, "drops": drops, "factors": (keys["SOLVER.GAMMA"],) * len(drops)}


def _note_evaluation(keys: Keys) -> None:
    """What the evaluation of a run leaves out, or takes as published whatever the file says."""
    test = "MODEL.MASK_FORMER.TEST"
    for key in ("TEST.AUG.ENABLED", "TEST.PRECISE_BN.ENABLED"):
        if keys[key]:
            keys.notes.append(f"{key}: there is no such thing here; evaluation goes without")
    if keys["TEST.DETECTIONS_PER_IMAGE"] != 100:
        keys.notes.append("TEST.DETECTIONS_PER_IMAGE: AP counts 100 detections an image")
    if keys["INPUT.DATASET_MAPPER_NAME"].endswith(("panoptic", "panoptic_lsj")):
        if keys[f"{test}.INSTANCE_ON"] or keys[f"{test}.SEMANTIC_ON"]:
            keys.notes.append(f"{test}: a panoptic run is evaluated by PQ, without AP and mIoU")
        for name in ("OBJECT_MASK_THRESHOLD", "OVERLAP_THRESHOLD"):
            if keys[f"{test}.{name}"] != 0.8:
                keys.notes.append(f"{test}.{name}: PQ is taken at 0.8, as published for COCO")
