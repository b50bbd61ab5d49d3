"""Data sets, sizes and augmentation: `data` of our settings.

What the mappers do: `mask2former/data/dataset_mappers` in facebookresearch/Mask2Former.
"""

from typing import Any

from mpdiag.data import DETECTRON2_NAMES
from trainers.translation.keys import Keys

# Task of each mapper, and whether it jitters scales (LSJ) or picks one of some sizes.
_MAPPERS = {
    "coco_instance_lsj": ("instance", True),
    "coco_panoptic_lsj": ("panoptic", True),
    "mask_former_instance": ("instance", False),
    "mask_former_panoptic": ("panoptic", False),
    "mask_former_semantic": ("semantic", False),
}


def data_settings(keys: Keys) -> dict[str, Any]:
    """`data`."""
    keys.need("INPUT.DATASET_MAPPER_NAME", *_MAPPERS)
    keys.need("DATALOADER.SAMPLER_TRAIN", "TrainingSampler")
    task, jitters = _MAPPERS[keys["INPUT.DATASET_MAPPER_NAME"]]
    if not keys["DATALOADER.FILTER_EMPTY_ANNOTATIONS"]:
        keys.notes.append(
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS: images without an object are always left out"
        )
    short_side = keys["INPUT.MIN_SIZE_TEST"]
    return {
        **_sets(keys, task),
        "task": task,
        "batch_size": keys["SOLVER.IMS_PER_BATCH"],
        "workers": keys["DATALOADER.NUM_WORKERS"],
        "short_side": short_side or None,  # 0: images keep their size
        "long_side": keys["INPUT.MAX_SIZE_TEST"],
        "augment": _jittered(keys) if jitters else _resized(keys, task),
    }


def _sets(keys: Keys, task: str) -> dict[str, Any]:
    train, tests = keys["DATASETS.TRAIN"], keys["DATASETS.TEST"]
    if len(train) != 1:
        raise keys.wrong("DATASETS.TRAIN", "a run trains on one data set; give one name")
    if len(tests) > 1:
        keys.notes.append(f"DATASETS.TEST: only the first, {tests[0]}, is evaluated on")
    settings: dict[str, Any] = {}
    for name, prefix in ((train[0], "train"), *((name, "val") for name in tests[:1])):
        known = DETECTRON2_NAMES.get(name)
        dataset, split = (known.dataset, known.split) if known else (name, prefix)
        settings |= {f"{prefix}_dataset": dataset, f"{prefix}_split": split}
        if known is None:
            ours = "data.dataset" if prefix == "train" else "data.val_dataset"
            keys.notes.append(
                f"{name}: read only if it is registered in detectron2's catalogs; else give "
                f"{ours}=FILE.json"
            )
        elif known.task != task:
            keys.notes.append(
                f"{name}: its {task} annotation is read, as INPUT.DATASET_MAPPER_NAME asks for"
            )
    dataset, held_out = settings.pop("train_dataset"), settings.pop("val_dataset", None)
    different = {} if held_out in (None, dataset) else {"val_dataset": held_out}
    return {"dataset": dataset, **settings, **different}


def _jittered(keys: Keys) -> dict[str, Any]:
    keys.need("INPUT.RANDOM_FLIP", "horizontal", "none")
    side = keys["INPUT.IMAGE_SIZE"]
    return {
        "scale_jitter": (keys["INPUT.MIN_SCALE"], keys["INPUT.MAX_SCALE"]),
        "crop": (side, side),
        "flip": keys["INPUT.RANDOM_FLIP"] == "horizontal",
    }


def _resized(keys: Keys, task: str) -> dict[str, Any]:
    """These mappers flip whatever INPUT.RANDOM_FLIP says."""
    keys.need("INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice", "range")
    sides = keys["INPUT.MIN_SIZE_TRAIN"]
    if keys["INPUT.MIN_SIZE_TRAIN_SAMPLING"] == "range":
        if len(sides) != 2:
            raise keys.wrong("INPUT.MIN_SIZE_TRAIN", "a range has two ends")
        sides = tuple(range(sides[0], sides[1] + 1))
    augment: dict[str, Any] = {
        "short_sides": sides,
        "long_side": keys["INPUT.MAX_SIZE_TRAIN"],
        "color": keys["INPUT.COLOR_AUG_SSD"],
        "flip": True,
    }
    if keys["INPUT.CROP.ENABLED"]:
        keys.need("INPUT.CROP.TYPE", "absolute")
        augment["crop"] = keys["INPUT.CROP.SIZE"]
        # The instance mapper's windows are free.
        share = 1.0 if task == "instance" else keys["INPUT.CROP.SINGLE_CATEGORY_MAX_AREA"]
        augment["crop_category_share"] = share
    _check_padding(keys, augment.get("crop"), sides)
    return augment


def _check_padding(keys: Keys, crop: tuple[int, int] | None, sides: tuple[int, ...]) -> None:
    """Images are padded to the window, where detectron2's mappers pad to INPUT.SIZE_DIVISIBILITY.

    That is a side, not a divisor: what is larger is cut off.
    """
    key = "INPUT.SIZE_DIVISIBILITY"
    side = keys[key]
    if side > 0 and crop != (side, side):
        raise keys.wrong(key, f"only the side of INPUT.CROP.SIZE, {crop}, or -1 can be translated")
    if side <= 0 and crop is not None and min(sides) < min(crop):
        keys.notes.append(
            f"{key}: images smaller than the window {crop} are padded to it, not to the batch"
        )
