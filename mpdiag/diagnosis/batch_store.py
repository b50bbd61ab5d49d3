"""Finished batches of forward passes in a directory, so that an interrupted diagnosis continues.

A file holds the evidence of one batch. Its name is a checksum of the weights, the settings, the
classes, the changes to the model, the pixels and the GT, so that a file is used for exactly what it
was measured for.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from mpdiag import __version__
from mpdiag.analysis.adapter import ModelAdapter, PreprocessedImage
from mpdiag.analysis.ground_truth import EncodedGroundTruth
from mpdiag.diagnosis.changes import Changes
from mpdiag.diagnosis.evidence import ImageEvidence
from mpdiag.diagnosis.facts import AttentionTotals, ModelFacts
from mpdiag.diagnosis.kept_masks import KeptMasks
from mpdiag.errors import OutputError
from mpdiag.store.files import replace_file
from mpdiag.untrusted import read_bytes

MAX_BYTES = 4 << 30

Arrays = dict[str, npt.NDArray[Any]]
BatchEvidence = tuple[list[ImageEvidence], ModelFacts]


class BatchStore:
    """Evidence of finished batches of one model.

    Files that are damaged or of another version are measured again.
    """

    def __init__(self, directory: Path, adapter: ModelAdapter, task: str = "instance") -> None:
        """Use a directory, which is created.

        Args:
            directory: the directory.
            adapter: the model.
            task: task of the data set, on which it depends what is measured.

        Raises:
            OutputError: the directory cannot be created.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{directory}: is not a directory ({error}); give another") from error
        self.directory = directory
        info = adapter.info
        self.model = [__version__, info.sha256, repr(info.settings), repr(adapter.classes), task]

    def path(
        self,
        batch: Sequence[PreprocessedImage],
        truths: Iterable[EncodedGroundTruth],
        changes: Changes,
        every_layer: bool,
    ) -> Path:
        """Return the file of a batch."""
        changed = {
            name: sorted(value) if isinstance(value, frozenset) else str(value)
            for name, value in asdict(changes).items()
        }
        digest = hashlib.sha256(json.dumps([self.model, changed, every_layer]).encode())
        for image, truth in zip(batch, truths, strict=True):
            pixels = image.sample.image
            digest.update(f"{image.sample.image_id} {tuple(pixels.shape)} {image.padded}".encode())
            digest.update(pixels.contiguous().numpy().tobytes())
            values = [x.tolist() for x in (truth.labels, truth.crowd, truth.areas)]
            digest.update(json.dumps([truth.size, *values]).encode())
            for counts in truth.counts:
                digest.update(counts + b"\n")
        return self.directory / f"{digest.hexdigest()}.npz"

    def write(self, path: Path, images: Sequence[ImageEvidence], facts: ModelFacts) -> None:
        """Write a batch atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        arrays = _arrays(facts, "facts")
        if facts.attention is not None:
            arrays |= _arrays(facts.attention, "attention")
        for place, image in enumerate(images):
            arrays |= _arrays(image, str(place))
            if image.masks is not None:
                arrays |= _arrays(image.masks, f"{place}.masks")
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        replace_file(path, buffer.getvalue())

    def read(self, path: Path, count: int) -> BatchEvidence | None:
        """Read a batch of `count` images; None if there is none or it is damaged."""
        try:
            arrays = _read_arrays(path)
            facts = _restore(ModelFacts, arrays, "facts")
            if any(name.startswith("attention.") for name in arrays):
                facts = replace(facts, attention=_restore(AttentionTotals, arrays, "attention"))
            images = [_restore_image(arrays, str(place)) for place in range(count)]
        except Exception:  # zipfile, zlib and numpy raise many kinds, with no common class
            return None
        return images, facts


def _arrays(value: Any, prefix: str) -> Arrays:
    """Return the fields of a dataclass that are numbers or arrays."""
    found = {one.name: getattr(value, one.name) for one in fields(value)}
    return {
        f"{prefix}.{name}": np.asarray(content)
        for name, content in found.items()
        if content is not None and not isinstance(content, AttentionTotals | KeptMasks)
    }


def _restore_image(arrays: Arrays, prefix: str) -> ImageEvidence:
    image: ImageEvidence = _restore(ImageEvidence, arrays, prefix)
    if f"{prefix}.masks.rows" not in arrays:
        return image
    return replace(image, masks=_restore(KeptMasks, arrays, f"{prefix}.masks"))


def _restore(kind: Any, arrays: Arrays, prefix: str) -> Any:
    """Return the dataclass of `_arrays`."""
    values: dict[str, Any] = {}
    for one in fields(kind):
        array = arrays.get(f"{prefix}.{one.name}")
        if array is None:
            if type(None) not in get_args(one.type):
                raise KeyError(one.name)  # of another version
            values[one.name] = None
        elif one.name == "grid":
            values[one.name] = tuple(array.tolist())
        else:
            values[one.name] = array if array.ndim else array.item()
    return kind(**values)


def _read_arrays(path: Path) -> Arrays:
    content = read_bytes(path, MAX_BYTES)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sizes = [entry.file_size for entry in archive.infolist()]
    # Security: `write` does not compress, so entries that are larger than the file are not its own.
    if sum(sizes) > len(content):
        raise ValueError("entries are larger than the file")
    with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
        return dict(loaded)
