"""A memory-efficient list of records."""

import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np


class PackedRecords:
    """A read-only list of pickled records in one buffer.

    Worker processes share the buffer. Python objects would be copied page by page into each
    worker, because access changes their reference counts.
    """

    def __init__(self, records: Iterable[Any]) -> None:
        chunks = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = np.cumsum([0, *map(len, chunks)])
        self._buffer = np.frombuffer(b"".join(chunks), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        return pickle.loads(self._buffer[self._ends[index] : self._ends[index + 1]].data)
