"""The section `data`: data sets, sizes and augmentation.

Source: `mask2former/data/dataset_mappers` in facebookresearch/Mask2Former.
"""

from typing import Any

from mpdiag.data import DETECTRON2_NAMES
from trainers.detectron2_recipes.keys import Detectron2Settings

# Task of each mapper, and whether it uses large-scale jitter (LSJ) instead of given sizes.
_MAPPERS = {
    "coco_instance_lsj": ("instance", True),
    "coco_panoptic_lsj": ("panoptic", True),
    "mask_former_instance": ("instance", False),
    "mask_former_panoptic": ("panoptic", False),
    "mask_former_semantic": ("semantic", False),
}


def data_settings(keys: Detectron2Settings) -> dict[str, Any]:
    """Return the section `data`."""
    keys.require("INPUT.DATASET_MAPPER_NAME", *_MAPPERS)
    keys.require("DATALOADER.SAMPLER_TRAIN", "TrainingSampler")
    task, jitters = _MAPPERS[keys["INPUT.DATASET_MAPPER_NAME"]]
    if not keys["DATALOADER.FILTER_EMPTY_ANNOTATIONS"]:
        keys.notes.append(
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS: images without objects are always left out"
        )
    short_side = keys["INPUT.MIN_SIZE_TEST"]
    return {
        **_sets(keys, task),
        "task": task,
        "batch_size": keys["SOLVER.IMS_PER_BATCH"],
        "num_workers": keys["DATALOADER.NUM_WORKERS"],
        "short_side": short_side or None,  # 0: images keep their size
        "long_side": keys["INPUT.MAX_SIZE_TEST"],
        "augment": _jittered(keys) if jitters else _resized(keys, task),
    }


def _sets(keys: Detectron2Settings, task: str) -> dict[str, Any]:
    train, tests = keys["DATASETS.TRAIN"], keys["DATASETS.TEST"]
    if len(train) != 1:
        raise keys.error("DATASETS.TRAIN", "only one training set is supported; give one name")
    if len(tests) > 1:
        keys.notes.append(f"DATASETS.TEST: only the first, {tests[0]}, is evaluated")
    settings: dict[str, Any] = {}
    for name, prefix in ((train[0], "train"), *((name, "val") for name in tests[:1])):
        known = DETECTRON2_NAMES.get(name)
        dataset, split = (known.dataset, known.split) if known else (name, prefix)
        settings |= {f"{prefix}_dataset": dataset, f"{prefix}_split": split}
        if known is None:
            setting = "data.dataset" if prefix == "train" else "data.val_dataset"
            keys.notes.append(
                f"{name}: must be registered in detectron2's catalogs; otherwise set "
                f"{setting}=FILE.json"
            )
        elif known.task != task:
            keys.notes.append(
                f"{name}: uses its {task} annotations, as INPUT.DATASET_MAPPER_NAME requires"
            )
    dataset, held_out = settings.pop("train_dataset"), settings.pop("val_dataset", None)
    different = {} if held_out in (None, dataset) else {"val_dataset": held_out}
    return {"dataset": dataset, **settings, **different}


def _jittered(keys: Detectron2Settings) -> dict[str, Any]:
    keys.require("INPUT.RANDOM_FLIP", "horizontal", "none")
    side = keys["INPUT.IMAGE_SIZE"]
    return {
        "scale_jitter": (keys["INPUT.MIN_SCALE"], keys["INPUT.MAX_SCALE"]),
        "crop": (side, side),
        "flip": keys["INPUT.RANDOM_FLIP"] == "horizontal",
    }


def _resized(keys: Detectron2Settings, task: str) -> dict[str, Any]:
    """Return the augmentation of the mappers without LSJ, which ignore INPUT.RANDOM_FLIP."""
    keys.require("INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice", "range")
    sides = keys["INPUT.MIN_SIZE_TRAIN"]
    if keys["INPUT.MIN_SIZE_TRAIN_SAMPLING"] == "range":
        if len(sides) != 2:
            raise keys.error("INPUT.MIN_SIZE_TRAIN", "a range needs two sides")
        sides = tuple(range(sides[0], sides[1] + 1))
    augment: dict[str, Any] = {
        "short_sides": sides,
        "long_side": keys["INPUT.MAX_SIZE_TRAIN"],
        "color": keys["INPUT.COLOR_AUG_SSD"],
        "flip": True,
    }
    if keys["INPUT.CROP.ENABLED"]:
        keys.require("INPUT.CROP.TYPE", "absolute")
        augment["crop"] = keys["INPUT.CROP.SIZE"]
        # The instance mapper does not restrict its crops.
        share = 1.0 if task == "instance" else keys["INPUT.CROP.SINGLE_CATEGORY_MAX_AREA"]
        augment["single_category_max_area"] = share
    _check_padding(keys, augment.get("crop"), sides)
    return augment


def _check_padding(
    keys: Detectron2Settings, crop: tuple[int, int] | None, sides: tuple[int, ...]
) -> None:
    """Check that padding to the crop is equivalent to padding to INPUT.SIZE_DIVISIBILITY.

    That key is a side, not a divisor: detectron2's mappers cut off what is larger.
    """
    key = "INPUT.SIZE_DIVISIBILITY"
    side = keys[key]
    if side > 0 and crop != (side, side):
        raise keys.error(key, f"only the side of INPUT.CROP.SIZE, {crop}, or -1 is supported")
    if side <= 0 and crop is not None and min(sides) < min(crop):
        keys.notes.append(
            f"{key}: images smaller than the crop {crop} are padded to it, not to the batch"
        )
