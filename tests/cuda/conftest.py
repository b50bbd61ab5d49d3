"""Data of the tests on a GPU."""

import pytest

from mpdiag.data import SegmentationDataset, generate_synthetic, load_dataset


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataset:
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root / "synthetic", train=1, val=2, size=64)
    return load_dataset("synthetic", root=root)
