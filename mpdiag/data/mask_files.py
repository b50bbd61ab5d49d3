"""Instance data with one mask image per object, as in the Data Science Bowl 2018."""

from functools import partial
from pathlib import Path

import numpy as np

from mpdiag.choices import Task
from mpdiag.data.annotations import OpenedSplit
from mpdiag.data.files import require_instance_task, split_folder
from mpdiag.data.image_files import read_displayed_size, read_integer_map
from mpdiag.data.instance_files import (
    ONE_CLASS,
    AnnotatedImage,
    InstanceFiles,
    instances,
    is_image,
)
from mpdiag.data.problems import DataProblem, ProblemHandler
from mpdiag.data.sample import GroundTruth
from mpdiag.data.segmentation import require_mask_memory


def open_mask_files(
    folder: Path, split: str, task: Task, on_problem: ProblemHandler
) -> OpenedSplit:
    """Open a folder with one mask image per object; pixels above 0 belong to the object.

    SPLIT/NAME/images/FILE with SPLIT/NAME/masks/*, or SPLIT/images/NAME.* with SPLIT/masks/NAME/*.
    All objects are of one class.
    """
    require_instance_task(folder, task)
    root = split_folder(folder, split)
    together = root / "images"
    if together.is_dir():
        pairs = [(path, root / "masks" / path.stem) for path in together.iterdir()]
    else:
        pairs = [(path, path.parent.parent / "masks") for path in root.glob("*/images/*")]
    images = [
        AnnotatedImage(image.relative_to(root).as_posix(), masks.relative_to(root).as_posix())
        for image, masks in sorted(pairs)
        if is_image(image)
    ]
    read = partial(_read_masks, on_problem=on_problem)
    return InstanceFiles(root, images, ONE_CLASS, read), root


def _read_masks(image: Path, folder: Path, on_problem: ProblemHandler) -> GroundTruth:
    """Return the objects of an image; an image without a folder of masks has none."""
    files = sorted(path for path in folder.iterdir() if is_image(path)) if folder.is_dir() else []
    size = read_displayed_size(image)
    require_mask_memory((len(files), *size), image)
    masks = np.zeros((len(files), *size), dtype=np.bool_)
    for mask, file in zip(masks, files, strict=True):
        pixels = read_integer_map(file)
        if pixels.shape == size:
            mask[:] = pixels > 0
        else:
            message = (
                f"{file}: is {pixels.shape[0]} x {pixels.shape[1]} (height x width), but {image} "
                f"is {size[0]} x {size[1]}; create the mask again"
            )
            on_problem(DataProblem("annotation of another size", message))
    return instances(masks, [0] * len(files))
