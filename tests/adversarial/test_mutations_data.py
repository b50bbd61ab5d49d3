"""Seeded mutations of COCO files and images: each data set loads, or raises an MpdiagError."""

import io
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpdiag.data import load_dataset
from mpdiag.data.check import check_dataset
from mpdiag.data.image_files import read_integer_map, read_rgb, read_size
from mpdiag.errors import MpdiagError

from .mutations import check_error, mutate_bytes, mutate_tree, seeds

Write = Callable[..., Path]
SHARES = 3


def try_data_set(path: Path, task: str | None, rng: random.Random) -> None:
    """Load all samples, or check the data set; an MpdiagError has a printable message."""
    started = time.process_time()
    try:
        if rng.random() < 0.5:
            data = load_dataset(str(path), task=task)
            [data[index] for index in range(len(data))]
        else:
            check_dataset(str(path), task=task)
    except MpdiagError as error:
        check_error(error)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("share", range(SHARES))
def test_mutated_annotation_files(instances: Write, panoptic: Write, share: int) -> None:
    paths = [instances(), panoptic()]
    originals = [(path.read_bytes(), json.loads(path.read_text())) for path in paths]
    for seed in seeds(1500, share, SHARES):
        rng = random.Random(seed)
        kind = rng.randrange(2)
        data, content = originals[kind]
        if rng.random() < 0.25:
            data = mutate_bytes(data, rng)
        else:
            data = json.dumps(mutate_tree(content, rng)).encode()
        paths[kind].write_bytes(data)
        try_data_set(paths[kind], rng.choice((None, "instance", "panoptic", "semantic")), rng)


def images() -> list[bytes]:
    """Return an image of each format, some with EXIF, and maps of several depths."""
    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM"):
        stream = io.BytesIO()
        color.save(stream, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
        found.append(stream.getvalue())
    for dtype in (np.uint8, np.uint16, np.int32):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 200, (20, 30)).astype(dtype)).save(stream, "TIFF")
        found.append(stream.getvalue())
    return found


@pytest.mark.parametrize("share", range(SHARES))
def test_mutated_images(instances: Write, panoptic: Write, share: int) -> None:
    paths = [instances(), panoptic()]
    files = [paths[0].parent / "1.png", paths[0].parent / "panoptic_val/1.png"]
    originals = images()
    for seed in seeds(1200, share, SHARES):
        rng = random.Random(seed)
        kind = rng.randrange(2)
        files[kind].write_bytes(mutate_bytes(rng.choice(originals), rng))
        for read in (read_size, read_rgb, read_integer_map):
            try:
                read(files[kind])
            except MpdiagError as error:
                check_error(error)
        try_data_set(paths[kind], None, rng)
