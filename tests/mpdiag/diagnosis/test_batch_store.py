"""An interrupted diagnosis continues from its finished batches."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from mpdiag.analysis.class_mapping import ClassMapping
from mpdiag.diagnosis.batch_store import BatchStore
from mpdiag.diagnosis.changes import Changes
from mpdiag.diagnosis.collect import Collector
from mpdiag.diagnosis.evidence import ImageEvidence
from mpdiag.diagnosis.search import Search
from mpdiag.errors import OutputError
from mpdiag.store.diagnosis import Diagnosis


@pytest.fixture
def stored(collector: Collector, tmp_path: Path) -> Collector:
    store = BatchStore(tmp_path / "batches", collector.adapter)
    return _with_store(collector, store)


def _with_store(collector: Collector, store: BatchStore | None) -> Collector:
    return Collector(
        collector.adapter, collector.data, collector.indices, collector.device, None, store
    )


def _count_calls(monkeypatch: pytest.MonkeyPatch, collector: Collector, most: int) -> list[int]:
    """Return a list whose length is the number of forward passes; stop after `most`."""
    calls: list[int] = []
    predict = collector.adapter.predict

    def counted(batch: object, targets: object, *, attention: bool) -> object:
        if len(calls) == most:
            raise KeyboardInterrupt
        calls.append(len(calls))
        return predict(batch, targets, attention=attention)  # type: ignore[arg-type]

    monkeypatch.setattr(collector.adapter, "predict", counted)
    return calls


def _diagnose(collector: Collector) -> Diagnosis:
    evidence = collector.collect(every_layer=True)
    return Search(evidence, 0.01, collector).run()


def _assert_equal(first: ImageEvidence, second: ImageEvidence) -> None:
    for one in fields(ImageEvidence):
        np.testing.assert_array_equal(getattr(first, one.name), getattr(second, one.name))


def test_a_batch_is_read_as_it_was_written(stored: Collector) -> None:
    evidence = stored.collect(every_layer=True)
    assert stored.store is not None
    (path,) = stored.store.directory.iterdir()
    found = stored.store.read(path, 2)
    assert found is not None
    for image, again in zip(evidence.images, found[0], strict=True):
        _assert_equal(image, again)
    assert found[1].attention is not None and evidence.facts is not None
    assert evidence.facts.attention is not None
    assert found[1].attention.averages(1) == evidence.facts.attention.averages(1)
    assert found[1].images == 2


def test_an_interrupted_diagnosis_continues(
    collector: Collector, stored: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _count_calls(monkeypatch, collector, 1000)
    expected = _diagnose(collector).as_json()
    total = len(calls)
    monkeypatch.undo()
    calls = _count_calls(monkeypatch, collector, total // 2)
    with pytest.raises(KeyboardInterrupt):
        _diagnose(stored)
    monkeypatch.undo()
    calls = _count_calls(monkeypatch, collector, 1000)
    again = _diagnose(_with_store(collector, stored.store)).as_json()
    assert again == expected
    assert len(calls) <= total - total // 2 + 2  # those that are never stored run again


def test_a_file_is_used_for_its_changes_and_its_model_only(stored: Collector) -> None:
    assert stored.store is not None
    own = stored.collect(every_layer=True)
    swapped = stored.collect(Changes(swap_channels=True), every_layer=True)
    assert len(list(stored.store.directory.iterdir())) == 2
    assert np.abs(own.images[0].class_logits - swapped.images[0].class_logits).max() > 0
    other = BatchStore(stored.store.directory, stored.adapter)
    other.model = ["another"]
    _with_store(stored, other).collect(every_layer=True)
    assert len(list(stored.store.directory.iterdir())) == 3


def test_a_file_is_not_used_for_other_classes_or_areas(stored: Collector) -> None:
    """As if names of classes, or areas of objects, were corrected between two diagnoses."""
    assert stored.store is not None
    own = stored.collect(every_layer=True).images[0]
    columns = stored.adapter.classes.columns
    stored.adapter.classes = ClassMapping((columns[1], columns[0], *columns[2:]), len(columns))
    store = BatchStore(stored.store.directory, stored.adapter)
    swapped = _with_store(stored, store).collect(every_layer=True).images[0]
    np.testing.assert_array_equal(swapped.class_logits[..., [1, 0]], own.class_logits[..., :2])
    samples = map(stored.ground_truth.read_sample, stored.indices)
    (batch,) = stored.adapter.batches(samples, stored.device)
    truths = [stored.ground_truth.encoded[one.sample.image_id] for one in batch]
    doubled = [replace(one, areas=2 * one.areas) for one in truths]
    paths = [store.path(batch, every, Changes(), True) for every in (truths, doubled)]
    assert paths[0].is_file() and not paths[1].is_file()


def test_a_damaged_file_is_measured_again(stored: Collector) -> None:
    assert stored.store is not None
    own = stored.collect().images
    (path,) = stored.store.directory.iterdir()
    content = path.read_bytes()
    entry = content.index(b"PK\1\2")  # of the list of contents
    shape = content.index(b"'shape': (")
    header = content[shape : content.index(b"\n", shape)]
    for damaged in (
        b"",
        b"text",
        content[: len(content) // 2],
        content[:-30],
        content[: entry + 8] + b"\1" + content[entry + 9 :],  # encrypted
        content[: entry + 10] + b"\7" + content[entry + 11 :],  # an unknown compression
        content[: entry + 10] + b"\10" + content[entry + 11 :],  # compressed with zlib
        content.replace(header, b"'shape': (99999999999999,), }".ljust(len(header)), 1),
    ):
        path.write_bytes(damaged)
        assert stored.store.read(path, 2) is None
        for image, again in zip(own, stored.collect().images, strict=True):
            _assert_equal(image, again)
        assert path.read_bytes() == content


def test_a_file_of_another_version_is_measured_again(stored: Collector) -> None:
    assert stored.store is not None
    stored.collect()
    (path,) = stored.store.directory.iterdir()
    with np.load(path) as loaded:
        arrays = {name: array for name, array in loaded.items() if name != "1.repeated"}
    np.savez(path, **arrays)
    assert stored.store.read(path, 2) is None


def test_a_file_cannot_expand(stored: Collector) -> None:
    assert stored.store is not None
    path = stored.store.directory / "0.npz"
    np.savez_compressed(path, a=np.zeros(1_000_000))
    assert stored.store.read(path, 1) is None


def test_a_directory_that_is_a_file_is_an_error(collector: Collector, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: is not a directory"):
        BatchStore(tmp_path / "file", collector.adapter)
