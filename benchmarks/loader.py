"""`mpdiag bench loader`: training samples a second and core, beside those made detectron2's way.

Ours and the other's take turns image by image, with large-scale jitter into 1024 x 1024, as the
published models are trained on COCO. Seconds are those of the process's CPU time.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import rich.box
import torch
from rich.table import Table

from benchmarks.naive_loader import SCALES, SIDE, PlainMapper
from mpdiag.config import AugmentConfig, DataConfig
from mpdiag.data import SegmentationDataset, build_augmentation, load_dataset
from mpdiag.data.segmentation import to_rle
from mpdiag.errors import ConfigError, DataError

CORES = 16  # of the GPU machines that models are trained on


@dataclass(frozen=True, slots=True)
class LoaderTiming:
    """Seconds of CPU time for one image of annotations in one form, plain and ours."""

    form: str
    images: int
    plain: float
    ours: float

    def as_json(self) -> dict[str, Any]:
        """All of it as plain numbers and texts."""
        return asdict(self)


def bench_loader(dataset: str, *, root: Path | None, split: str, images: int) -> list[LoaderTiming]:
    """Time both ways on a COCO data set's instances, as they are annotated and as RLE.

    Args:
        dataset: a name or a COCO-format JSON file.
        root, split: as `load_dataset` takes them.
        images: how many, the first of the split that are annotated.

    Raises:
        ConfigError: fewer than 1 image.
        DataError: the data set can't be read, or isn't COCO's instances.
    """
    if images < 1:
        raise ConfigError(f"--images {images}: give the number of images, at least 1")
    data = load_dataset(dataset, root=root, split=split, task="instance")
    path = data.annotations.path
    if path.suffix != ".json":
        raise DataError(f"{path}: isn't a COCO file, so there is no other loader to compare with")
    timings = [_time("as annotated", data, images)]
    with _as_rle(path) as packed:
        encoded = load_dataset(str(packed), root=data.image_root, task="instance")
        timings.append(_time("RLE", encoded, images))
    return timings


def _time(form: str, data: SegmentationDataset, images: int) -> LoaderTiming:
    config = DataConfig(augment=AugmentConfig(scale_jitter=SCALES, crop=(SIDE, SIDE)))
    transform = build_augmentation(config)
    mapper = PlainMapper(data.annotations.path, data.image_root)
    annotated = [index for index in range(len(data)) if data.num_objects(index)][:images]

    def ours(index: int) -> object:
        return transform(data[index], torch.Generator().manual_seed(index))

    def plain(index: int) -> object:
        return mapper(data.image_ids[index], index)

    seconds = {"ours": 0.0, "plain": 0.0}
    for round_ in range(2):  # in the first round files come into the system's memory
        for index in annotated:
            for name, make in (("ours", ours), ("plain", plain)):
                seconds[name] += round_ * _seconds(make, index)
    count = len(annotated)
    return LoaderTiming(form, count, seconds["plain"] / count, seconds["ours"] / count)


def _seconds(make: Callable[[int], object], index: int) -> float:
    started = time.process_time()
    make(index)
    return time.process_time() - started


@contextmanager
def _as_rle(path: Path) -> Iterator[Path]:
    """A copy of a COCO file with all segments as compressed RLE."""
    content = json.loads(path.read_text(encoding="utf-8"))
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        height, width = sizes[annotation["image_id"]]
        rle = to_rle(annotation["segmentation"], height, width)
        counts = rle["counts"].decode("ascii")
        annotation["segmentation"] = {"size": [height, width], "counts": counts}
    with TemporaryDirectory() as folder:
        packed = Path(folder) / path.name
        packed.write_text(json.dumps(content), encoding="utf-8")
        yield packed


def loader_table(timings: list[LoaderTiming]) -> Table:
    """Images a second for a terminal."""
    view = Table(
        box=rich.box.SIMPLE_HEAD,
        title=f"Training samples of {SIDE} x {SIDE}, large-scale jitter",
        title_justify="left",
        title_style="bold",
        caption="By CPU time. Plain: PIL, and pycocotools instance by instance at the full size, "
        "as detectron2's mapper does it.",
        caption_justify="left",
    )
    view.add_column("segments")
    for name in (
        "images",
        "plain, images/s and core",
        "ours, images/s and core",
        "times plain",
        f"ours on {CORES} cores",
    ):
        view.add_column(name, justify="right")
    for timing in timings:
        view.add_row(
            timing.form,
            str(timing.images),
            f"{1 / timing.plain:.1f}",
            f"{1 / timing.ours:.1f}",
            f"{timing.plain / timing.ours:.2f}",
            f"{CORES / timing.ours:.0f}",
        )
    return view
