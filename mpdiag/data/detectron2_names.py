"""Data set names of detectron2 and Mask2Former; each is one split for one task.

From `data/datasets/builtin.py` and `cityscapes_panoptic.py` in facebookresearch/detectron2 and
`data/datasets/register_*.py` in facebookresearch/Mask2Former, limited to supported data sets.
"""

from dataclasses import dataclass

from mpdiag.choices import Task


@dataclass(frozen=True, slots=True)
class NamedSplit:
    """Data set, split and task of a detectron2 name."""

    dataset: str
    split: str
    task: Task


# Names with a placeholder for the split.
_NAMES: dict[str, tuple[str, Task]] = {
    "coco_2017_{}": ("coco", "instance"),
    "coco_2017_{}_panoptic": ("coco", "panoptic"),
    "coco_2017_{}_panoptic_with_sem_seg": ("coco", "panoptic"),
    "ade20k_instance_{}": ("ade20k", "instance"),
    "ade20k_panoptic_{}": ("ade20k", "panoptic"),
    "ade20k_sem_seg_{}": ("ade20k", "semantic"),
    "ade20k_full_sem_seg_{}": ("ade20k-full", "semantic"),
    "cityscapes_fine_instance_seg_{}": ("cityscapes", "instance"),
    "cityscapes_fine_panoptic_{}": ("cityscapes", "panoptic"),
    "cityscapes_fine_sem_seg_{}": ("cityscapes", "semantic"),
    "mapillary_vistas_panoptic_{}": ("mapillary", "panoptic"),
    "mapillary_vistas_sem_seg_{}": ("mapillary", "semantic"),
}
DETECTRON2_NAMES = {
    name.format(split): NamedSplit(dataset, split, task)
    for name, (dataset, task) in _NAMES.items()
    for split in ("train", "val")
}
# Prefixes of the names that detectron2 and Mask2Former register.
_PREFIXES = ("coco_", "keypoints_", "lvis_", "voc_", "cityscapes_", "ade20k_", "mapillary_")


def similar_names(name: str) -> str:
    """Return the supported detectron2 names if `name` looks like one, else an empty string."""
    if not name.startswith(_PREFIXES):
        return ""
    return ", ".join(key.format("{train,val}") for key in _NAMES)
