"""Cut the images of a data set into tiles, with their masks."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mpdiag.data.dataset import SegmentationDataset
from mpdiag.data.generated_folder import Progress, generate_folder, write_json
from mpdiag.data.image_files import MAX_PIXELS
from mpdiag.data.instance_writer import InstanceWriter
from mpdiag.data.registry import load_dataset
from mpdiag.errors import DataError

MANIFEST = "tiles.json"
MIN_PIXELS = 16
"""Objects with fewer pixels in a tile are dropped."""

_VERSION = 1  # increase it when the same settings give other tiles
_MAX_SIDE, _MAX_SCALE = 4096, 16


def prepare_tiles(
    dataset: str,
    output: Path | str,
    *,
    side: int,
    scale: int = 1,
    root: Path | None = None,
    splits: Sequence[str] = ("train", "val"),
    progress: Progress | None = None,
) -> Path:
    """Cut the images of an instance data set into tiles and return the new data set's folder.

    The tiles of an image lie on a grid from its upper left corner and do not overlap. Those at the
    right and bottom edge are smaller if `side` does not divide the image. Objects with fewer than
    `MIN_PIXELS` pixels in a tile are dropped, as are tiles without objects. Crowds are kept.

    A folder with the tiles of the same settings is kept. The folder is created atomically.

    Args:
        dataset: data set with instances that `load_dataset` opens.
        output: folder to create.
        side: height and width of a tile in pixels of the image.
        scale: enlarges each tile: bicubic for the image, nearest neighbour for the masks.
        root: folder of the data sets.
        splits: splits to cut, which have different images.
        progress: called with (images done, total).

    Raises:
        DataError: a setting is invalid, the data set cannot be read, or `output` has other files.
    """
    for name, value, highest in (("--tiles", side, _MAX_SIDE), ("--scale", scale, _MAX_SCALE)):
        if not 1 <= value <= highest:
            raise DataError(f"{name} {value}: must be 1 to {highest}; correct it")
    if (side * scale) ** 2 > MAX_PIXELS:
        raise DataError(
            f"--tiles {side} --scale {scale}: a tile has more than {MAX_PIXELS:,} pixels; lower one"
        )
    sources = {
        split: load_dataset(dataset, root=root, split=split, task="instance") for split in splits
    }
    # An annotation file, or a name that is registered in detectron2, is one split.
    if len({(x.image_root, *_stems(x)) for x in sources.values()}) < len(sources):
        raise DataError(
            f"{dataset}: has the same images in {' and '.join(sources)}; give a data set with "
            "splits, or one split"
        )
    total = sum(map(len, sources.values()))
    settings: dict[str, int | str] = {
        "version": _VERSION,
        "side": side,
        "scale": scale,
        "min_pixels": MIN_PIXELS,
    }
    settings |= {split: _fingerprint(source) for split, source in sources.items()}

    def write(draft: Path) -> None:
        done = 0
        for split, source in sources.items():
            writer = InstanceWriter(draft, split, source.classes)
            for index, stem in enumerate(_stems(source)):
                _add_tiles(writer, source, index, stem, side, scale)
                done += 1
                if progress is not None:
                    progress(done, total)
            if not writer.images:
                raise DataError(
                    f"{source.annotations.path}: no tile has an object of {MIN_PIXELS} pixels; "
                    "give larger tiles"
                )
            writer.finish()
        write_json(draft / MANIFEST, settings)

    output = Path(output).absolute()
    generate_folder(output, MANIFEST, settings, write)
    return output


def _add_tiles(
    writer: InstanceWriter,
    source: SegmentationDataset,
    index: int,
    stem: str,
    side: int,
    scale: int,
) -> None:
    truth = source.ground_truth(index)
    pixels = source.image(index).permute(1, 2, 0).numpy()
    masks, labels, crowd = truth.masks.numpy(), truth.labels.numpy(), truth.crowd.numpy()
    for rows, columns in tile_grid(pixels.shape[0], pixels.shape[1], side):
        part = masks[:, rows, columns]
        kept = part.sum((1, 2)) >= MIN_PIXELS
        if not (kept & ~crowd).any():
            continue
        tile = Image.fromarray(pixels[rows, columns])
        if scale > 1:
            size = (tile.width * scale, tile.height * scale)
            tile = tile.resize(size, Image.Resampling.BICUBIC)
        writer.add_image(f"{stem}_{rows.start}_{columns.start}.png", tile)
        for position in np.flatnonzero(kept):
            mask = part[position].repeat(scale, axis=0).repeat(scale, axis=1)
            writer.add_mask(mask, int(labels[position]), crowd=bool(crowd[position]))


def _stems(source: SegmentationDataset) -> list[str]:
    """Return the start of the names of each image's tiles, different for all images."""
    names = [Path(source.file_name(index)) for index in range(len(source))]
    stems = [name.with_suffix("").as_posix().replace("/", "-") for name in names]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{index:06d}-{stem}" for index, stem in enumerate(stems)]


def tile_grid(height: int, width: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of each tile of an image, row by row."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield (
                slice(top, min(top + side, height)),
                slice(left, min(left + side, width)),
            )


def _fingerprint(source: SegmentationDataset) -> str:
    """Return what identifies the annotations of a split: the hash of their file, or the path."""
    path = source.annotations.path
    if not path.is_file():
        return str(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
