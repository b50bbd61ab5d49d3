"""Faults in the ground truth of a COCO instance file."""

import copy

import numpy as np
from pycocotools import mask as coco_mask

from benchmarks.diagnosis.fault import CocoContent, choose


def mislabel(content: CocoContent, share: float, generator: np.random.Generator) -> None:
    """Give a share of the objects another class, if there is one."""
    categories = [category["id"] for category in content["categories"]]
    if len(categories) < 2:
        return
    for index in choose(generator, len(content["annotations"]), share):
        annotation = content["annotations"][index]
        others = [one for one in categories if one != annotation["category_id"]]
        annotation["category_id"] = int(generator.choice(others))


def remove_objects(content: CocoContent, share: float, generator: np.random.Generator) -> None:
    """Remove the annotations of a share of the objects."""
    removed = set(choose(generator, len(content["annotations"]), share))
    content["annotations"] = [
        annotation
        for index, annotation in enumerate(content["annotations"])
        if index not in removed
    ]


def annotate_twice(content: CocoContent, share: float, generator: np.random.Generator) -> None:
    """Annotate a share of the objects a second time, one pixel to the right."""
    annotations = content["annotations"]
    highest = max(annotation["id"] for annotation in annotations)
    for index in choose(generator, len(annotations), share):
        again = copy.deepcopy(annotations[index])
        mask = coco_mask.decode(again["segmentation"])
        moved = np.zeros_like(mask, order="F")
        moved[:, 1:] = mask[:, :-1]
        if not moved.any():
            continue
        encoded = coco_mask.encode(moved)
        highest += 1
        again["id"], again["area"] = highest, int(moved.sum())
        again["segmentation"] = {
            "size": list(mask.shape), "counts": encoded["counts"].decode("ascii")
        }  # fmt: skip
        annotations.append(again)
