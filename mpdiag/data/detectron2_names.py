"""The names under which detectron2 and Mask2Former register data sets: each is one split, one task.

`data/datasets/builtin.py` and `cityscapes_panoptic.py` in facebookresearch/detectron2,
`data/datasets/register_*.py` in facebookresearch/Mask2Former; those that there is a reader for.
"""

from dataclasses import dataclass

from mpdiag.choices import Task


@dataclass(frozen=True, slots=True)
class NamedSplit:
    """What one of detectron2's names stands for, in our words."""

    dataset: str
    split: str
    task: Task


# Name without split, which stands in the middle of COCO's and at the end of the others.
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
# How names begin that detectron2 and Mask2Former register, or that look like them.
_FAMILIES = ("coco_", "keypoints_", "lvis_", "voc_", "cityscapes_", "ade20k_", "mapillary_")


def similar_names(name: str) -> str:
    """For a message about a name that nothing reads: detectron2's names, if it looks like one."""
    if not name.startswith(_FAMILIES):
        return ""
    return ", ".join(key.format("{train,val}") for key in _NAMES)
