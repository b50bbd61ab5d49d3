"""Classes of ADE20K and Cityscapes, whose label maps do not contain class names.

Names and thing flags are facts of the data sets, as detectron2 (`data/datasets/builtin_meta.py`)
and Mask2Former (`data/datasets/register_ade20k_panoptic.py`) register them.
"""

import json
from importlib.resources import files

from mpdiag.data.sample import ClassInfo


def ade20k_classes() -> list[ClassInfo]:
    """Return the 150 classes of the scene parsing challenge; class k is value k + 1 of its maps."""
    return _read("ade20k")


def cityscapes_classes() -> list[ClassInfo]:
    """Return the 19 evaluated classes with their label ids; class k has train id k."""
    return _read("cityscapes")


def _read(name: str) -> list[ClassInfo]:
    text = (files("mpdiag.data") / "labels" / f"{name}.json").read_text(encoding="utf-8")
    return [ClassInfo(row["id"], row["name"], bool(row["isthing"])) for row in json.loads(text)]
