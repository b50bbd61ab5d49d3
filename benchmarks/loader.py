"""`mpdiag bench loader`: training samples per second and core, compared with a naive baseline.

Both create each image in turn, with large-scale jitter and crops of 1024 x 1024, as the published
models use for COCO. Times are CPU times of the process.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import rich.box
import torch
from rich.table import Table

from benchmarks.naive_loader import SCALES, SIDE, NaiveMapper
from mpdiag.config import AugmentConfig, DataConfig
from mpdiag.data import SegmentationDataset, build_augmentation, load_dataset
from mpdiag.data.segmentation import to_rle
from mpdiag.errors import ConfigError, DataError

CORES = 16  # CPU cores per GPU of a typical training machine


@dataclass(frozen=True, slots=True)
class LoaderTiming:
    """CPU seconds per image for one form of annotations.

    Attributes:
        form: "as annotated" or "RLE".
        images: number of images.
        naive, mpdiag: CPU seconds per image of each implementation.
    """

    form: str
    images: int
    naive: float
    mpdiag: float


def bench_loader(dataset: str, *, root: Path | None, split: str, images: int) -> list[LoaderTiming]:
    """Time both implementations on COCO instances, as annotated and converted to RLE.

    Args:
        dataset: a name or a COCO-format JSON file.
        root, split: see `load_dataset`.
        images: number of annotated images, from the start of the split.

    Raises:
        ConfigError: fewer than 1 image.
        DataError: the data set cannot be read, or is not a COCO file.
    """
    if images < 1:
        raise ConfigError(f"--images {images}: give the number of images, at least 1")
    data = load_dataset(dataset, root=root, split=split, task="instance")
    path = data.annotations.path
    if path.suffix != ".json":
        raise DataError(f"{path}: not a COCO file; the baseline reads COCO annotations only")
    timings = [_time("as annotated", data, images)]
    with _as_rle(path) as packed:
        encoded = load_dataset(str(packed), root=data.image_root, task="instance")
        timings.append(_time("RLE", encoded, images))
    return timings


def _time(form: str, data: SegmentationDataset, images: int) -> LoaderTiming:
    config = DataConfig(augment=AugmentConfig(scale_jitter=SCALES, crop=(SIDE, SIDE)))
    transform = build_augmentation(config)
    mapper = NaiveMapper(data.annotations.path, data.image_root)
    annotated = [index for index in range(len(data)) if data.num_objects(index)][:images]

    def mpdiag(index: int) -> object:
        return transform(data[index], torch.Generator().manual_seed(index))

    def naive(index: int) -> object:
        return mapper(data.image_ids[index], index)

    seconds = {"mpdiag": 0.0, "naive": 0.0}
    for round_ in range(2):  # the first round fills the file cache
        for index in annotated:
            for name, make in (("mpdiag", mpdiag), ("naive", naive)):
                seconds[name] += round_ * _seconds(make, index)
    count = len(annotated)
    return LoaderTiming(form, count, seconds["naive"] / count, seconds["mpdiag"] / count)


def _seconds(make: Callable[[int], object], index: int) -> float:
    started = time.process_time()
    make(index)
    return time.process_time() - started


@contextmanager
def _as_rle(path: Path) -> Iterator[Path]:
    """Yield a copy of a COCO file with all segments as compressed RLE."""
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
    """Return the timings as a table of images per second."""
    view = Table(
        box=rich.box.SIMPLE_HEAD,
        title=f"Training samples of {SIDE} x {SIDE}, large-scale jitter",
        title_justify="left",
        title_style="bold",
        caption="By CPU time. Naive: PIL and pycocotools, one instance at a time at full size, as "
        "detectron2's mapper.",
        caption_justify="left",
    )
    view.add_column("segments")
    for name in (
        "images",
        "naive, images/s and core",
        "mpdiag, images/s and core",
        "speedup",
        f"mpdiag on {CORES} cores",
    ):
        view.add_column(name, justify="right")
    for timing in timings:
        view.add_row(
            timing.form,
            str(timing.images),
            f"{1 / timing.naive:.1f}",
            f"{1 / timing.mpdiag:.1f}",
            f"{timing.naive / timing.mpdiag:.2f}",
            f"{CORES / timing.mpdiag:.0f}",
        )
    return view
