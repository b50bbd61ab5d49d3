"""Hostile annotation files and images: an error of the data set, in bounded time and memory."""

import io
import json
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpdiag.analysis.options import AnalysisOptions
from mpdiag.config import DataSource
from mpdiag.data import load_dataset
from mpdiag.data.check import CheckResult, check_dataset
from mpdiag.data.check_tables import check_tables
from mpdiag.data.segmentation import to_rle
from mpdiag.errors import ConfigError, DataError, RunError
from reports.mask_images import load_image

Write = Callable[..., Path]
Content = dict[str, Any]


@pytest.fixture(autouse=True)
def five_seconds() -> Any:
    started = time.process_time()
    yield
    assert time.process_time() - started < 5


def check(path: Path, task: str | None = None) -> CheckResult:
    """Check the data set and require that loading it raises one of the errors that are found."""
    result = check_dataset(str(path), task=task)
    for group in (*result.errors.values(), *result.warnings.values()):
        assert all(text.isprintable() and len(text) <= 1000 for text in group.examples)
    if result.errors:
        with pytest.raises(DataError) as caught:
            data = load_dataset(str(path), task=task)
            [data[index] for index in range(len(data))]
        examples = [text for group in result.errors.values() for text in group.examples]
        assert str(caught.value) in examples
    return result


def huge_png(path: Path, side: int) -> None:
    """Write a PNG whose header gives a size that its data do not have."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", b"\0"),
              (b"IEND", b"")]  # fmt: skip
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def write_iptc(path: Path, kind: str) -> None:
    """Write an IPTC record of 30 x 20 pixels that contains an image of 90 x 90 pixels."""
    stream = io.BytesIO()
    Image.new("L", (90, 90)).save(stream, kind)
    fields = [(3, 60, b"\1\0"), (3, 20, b"\x1e"), (3, 30, b"\x14"), (3, 120, b"\5"),
              (8, 10, stream.getvalue()), (2, 0, b"")]  # fmt: skip
    path.write_bytes(
        b"".join(struct.pack(">BBBH", 28, *key, len(data)) + data for *key, data in fields)
    )


@pytest.mark.parametrize(
    ("height", "width"),
    [(60_000, 60_000), (10**6, 10**6), (1, 10**10), (2**31 - 1, 2**31 - 1), (1, 65536)],
)
@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_sizes_that_no_image_has(
    instances: Write, panoptic: Write, task: str, height: int, width: int
) -> None:
    def edit(content: Content) -> None:
        content["images"][0].update(height=height, width=width)
        for entry in content["annotations"]:
            if "counts" in entry.get("segmentation", ()):
                entry["segmentation"]["size"] = [height, width]

    result = check((panoptic if task == "panoptic" else instances)(edit))
    assert "image size out of range" in result.errors or "no valid image" in str(result.errors)


def test_size_is_compared_with_the_image_before_masks_are_decoded(
    instances: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = instances(lambda content: content["images"][0].update(height=9000, width=9000))
    monkeypatch.setattr("mpdiag.data.coco_instances.to_rle", lambda *_: pytest.fail("decoded"))
    (text,) = check(path).errors["image of another size"].examples
    assert "1.png: is 20 x 30 (height x width)" in text and "9000 x 9000" in text


def test_panoptic_png_of_another_size_is_not_decoded(panoptic: Write) -> None:
    path = panoptic()
    huge_png(path.parent / "panoptic_val/1.png", 9_000)
    (text,) = check(path).errors["annotation of another size"].examples
    assert "panoptic_val/1.png: is 9000 x 9000" in text


def test_number_of_masks_times_size_is_bounded(instances: Write) -> None:
    height, width = 9000, 12_000

    def edit(content: Content) -> None:
        content["images"][0].update(height=height, width=width)
        rle = {"size": [height, width], "counts": [height * width]}
        one = content["annotations"][0] | {"segmentation": rle}
        content["annotations"] = [one | {"id": k} for k in range(30)]

    path = instances(edit)
    (path.parent / "1.png").unlink()
    result = check(path)  # nothing confirms the size
    assert set(result.errors) == {"missing file", "too many masks"}
    Image.new("1", (width, height)).save(path.parent / "1.png")
    (text,) = check(path).errors["too many masks"].examples
    assert "1.png: has 30 segments of 9000 x 12000 pixels" in text


def test_many_empty_panoptic_segments(panoptic: Write) -> None:
    def edit(content: Content) -> None:
        content["annotations"][0]["segments_info"] = [
            {"id": k, "category_id": 3} for k in range(100_000)
        ]

    (text,) = check(panoptic(edit)).errors["too many masks"].examples
    assert "1.png: has 100,000 segments" in text


@pytest.mark.parametrize("segment_id", [2**31, 2**24, -1, 10**12])
def test_segment_ids_that_have_no_color(panoptic: Write, segment_id: int) -> None:
    def edit(content: Content) -> None:
        content["annotations"][0]["segments_info"].append({"id": segment_id, "category_id": 3})

    (text,) = check(panoptic(edit)).errors["segment id out of range"].examples
    assert f"segment {segment_id} in the annotation of image 1" in text


@pytest.mark.parametrize("counts", ["o" * 4_000_000, "P" * 4_000_000, "0" * 4_000_000, "oooo"])
def test_long_numbers_and_many_runs_in_rle(instances: Write, counts: str) -> None:
    def edit(content: Content) -> None:
        content["annotations"][0]["segmentation"] = {"size": [20, 30], "counts": counts}

    (text,) = check(instances(edit)).errors["unreadable segmentation"].examples
    assert "annotation 11 (image 1.png)" in text


def test_polygons_that_take_long_to_rasterise() -> None:
    back_and_forth = [0, 0, 600, 470] * 50_000
    with pytest.raises(ValueError, match="crosses the image many times"):
        to_rle([back_and_forth], 480, 640)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 470, (20_000, 1, 2)) + rng.uniform(0, 9, (20_000, 3, 2))
    to_rle(corners.reshape(20_000, 6).tolist(), 480, 640)


@pytest.mark.parametrize(
    "segmentation",
    [
        "1" * 10**6,
        [["1" * 400, 2, 3, 4, 5, 6]],
        [[1e308] * 6],
        [[[1, 2], [3, 4], [5, 6]]],
        [[None] * 6],
        [{"x": 1}],
        [[1, 2, 3, 4, 5, [6]]],
        {"size": [20, 30], "counts": [600.0]},
        {"size": [20, 30], "counts": [True, 599]},
        {"size": [20, 30], "counts": [2**63 - 1, 2**63 - 1]},
        {"size": [20, 30], "counts": "\u20ac"},
        {"size": list(range(100_000)), "counts": ""},
        {"size": [20, 30], "counts": None},
    ],
)
def test_segmentations_of_other_types(instances: Write, segmentation: Any) -> None:
    def edit(content: Content) -> None:
        content["annotations"][0]["segmentation"] = segmentation

    assert set(check(instances(edit)).errors) == {"unreadable segmentation"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"area": 9.5', f'"area": 1{"0" * 400}'),
        ('"area": 9.5', f'"area": 1{"0" * 9000}'),
        ('"area": 9.5', f'"area": {"[" * 100_000}'),
        ("1.5, 1.5", f"1.5, 1{'0' * 400}"),
        ('"id": 2', '"id": 1000000000000000000000000000000'),
        ('"cup"', '"\\ud800"'),
        ('"2.png"', '"\\udfff.png"'),
        ('"cup"', '"\xff"'),
        ('"cup"', "\x00"),
        ('"segmentation"', f'"x": {"[" * 80 + "]" * 80}, "segmentation"'),
    ],
)
def test_numbers_texts_and_nesting_beyond_the_limits(instances: Write, old: str, new: str) -> None:
    path = instances()
    text = path.read_text()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode("latin-1"))
    (example,) = check(path).errors["data set that cannot be opened"].examples
    assert example.startswith(f"{path}: not complete JSON (")


def test_numbers_that_are_not_finite(instances: Write) -> None:
    path = instances()
    text = path.read_text()
    path.write_text(text.replace('"area": 9.5', '"area": 1e999'))
    areas = load_dataset(str(path)).ground_truth(0).areas
    assert areas.isfinite().all() and not check(path).errors
    path.write_text(text.replace("1.5, 1.5", "1e999, NaN"))
    assert set(check(path).errors) == {"unreadable segmentation"}


def test_named_pipes_and_devices_are_not_read(instances: Write, panoptic: Write) -> None:
    path = instances()
    (path.parent / "2.png").unlink()
    os.mkfifo(path.parent / "2.png")
    (text,) = check(path).errors["unreadable image"].examples
    assert "2.png: image cannot be read (not a regular file)" in text
    maps = panoptic()
    (maps.parent / "panoptic_val/1.png").unlink()
    (maps.parent / "panoptic_val/1.png").symlink_to("/dev/zero")
    assert "unreadable image" in check(maps).errors
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="annotation file cannot be read"):
        load_dataset(str(path))


def test_folders_of_data_sets_with_named_pipes(tmp_path: Path) -> None:
    (tmp_path / "synthetic").mkdir()
    os.mkfifo(tmp_path / "synthetic/synthetic.json")
    mapillary = tmp_path / "mapillary_vistas"
    for name in ("images", "labels"):
        (mapillary / "validation" / name).mkdir(parents=True)
    os.mkfifo(mapillary / "config.json")
    for name in ("synthetic", "mapillary"):
        with pytest.raises(DataError):
            load_dataset(name, root=tmp_path, task="semantic")


@pytest.mark.parametrize("name", ["a\0.png", "x" * 5000, "a/" * 3000, "1.png/2.png"])
def test_file_names_that_are_no_file(instances: Write, name: str) -> None:
    result = check(instances(lambda content: content["images"][1].update(file_name=name)))
    assert set(result.errors) & {"missing file", "unreadable image"}


@pytest.mark.parametrize("name", ["", ".", "./", "..", "../1.png", "/1.png"])
def test_file_names_outside_the_folder(instances: Write, name: str) -> None:
    result = check(instances(lambda content: content["images"][1].update(file_name=name)))
    assert set(result.errors) == {"file name outside the folder"}


def test_images_with_false_sizes_or_programs(instances: Write) -> None:
    path = instances()
    huge_png(path.parent / "2.png", 60_000)
    assert "2.png" in check(path).errors["unreadable image"].examples[0]
    (path.parent / "2.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 20\n")
    assert "2.png: is not an image in JPEG" in check(path).errors["unreadable image"].examples[0]


@pytest.mark.parametrize("kind", ["EPS", "PNG"])
def test_image_inside_an_iptc_record(
    instances: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Pillow would decode it by its own header: run Ghostscript, or return another size."""
    path = instances()
    write_iptc(path.parent / "2.png", kind)
    ghostscript = tmp_path / "bin/gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(ghostscript.parent), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    assert "2.png: is not an image in JPEG" in check(path).errors["unreadable image"].examples[0]
    with pytest.raises(RunError, match="not a readable image"):
        load_image(path.parent / "2.png")
    assert not (tmp_path / "started").exists()


def test_names_that_control_the_terminal(instances: Write) -> None:
    from mpdiag.commands.options import SafeConsole

    hostile = "\x1b[2J\x9b31m\u202eevil\x07\0" + "x" * 100_000

    def edit(content: Content) -> None:
        content["categories"][0]["name"] = hostile
        content["images"][1]["file_name"] = hostile

    result = check(instances(edit))
    console = SafeConsole(width=120, force_terminal=False)
    with console.capture() as capture:
        for table in check_tables(result):
            console.print(table)
    text = capture.get()
    assert text.replace("\n", "").isprintable() and len(text) < 20_000
    assert "\\x1b[2J\\x9b31m\\u202eevil" in text


def test_annotations_of_the_catalog(tmp_path: Path) -> None:
    from mpdiag.data.detectron2_catalog import RecordReader

    Image.new("RGB", (30, 20)).save(tmp_path / "1.png")
    image = {"file_name": str(tmp_path / "1.png"), "image_id": 1}
    metadata = {"thing_classes": ["cup"], "stuff_classes": ["cup"]}
    one = {"category_id": 0, "segmentation": [[1, 1, 9, 1, 9, 9]], "iscrowd": 0, "id": 2**31}
    reader = RecordReader("set", metadata, "instance")
    with pytest.raises(DataError, match="10,001 segments"):
        reader.read(image | {"annotations": [one] * 10_001})
    reader = RecordReader("set", metadata, "panoptic")
    with pytest.raises(DataError, match="segment id"):
        reader.read(image | {"pan_seg_file_name": image["file_name"], "segments_info": [one]})


def test_checkpoint_cannot_make_the_data_set_import_a_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mpdiag.analysis import choose_dataset as module

    info = SimpleNamespace(dataset=DataSource("evil:set"))
    model: Any = SimpleNamespace(recipe=None, training_info=info)
    monkeypatch.setattr(module, "LoadedCheckpoint", SimpleNamespace)
    with pytest.raises(ConfigError, match="names 'evil:set', which imports a module"):
        module.choose_dataset(None, model, AnalysisOptions())


def test_large_results_file_is_refused_fast(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([[0]] * 300_000))
    assert "a list, like a results file" in str(check(path).errors)
