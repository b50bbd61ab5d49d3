"""Batches that are copied ahead: their order and content, and the order of copies and waits."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from pretend_cuda import pretend_cuda

from mpdiag.data import Sample
from trainers.prefetch import prefetch


def batches(events: list[str], count: int = 3) -> Iterator[list[Sample]]:
    for number in range(count):
        events.append(f"load {number}")
        image = torch.full((3, 4, 5), number, dtype=torch.uint8)
        masks = torch.full((2, 4, 5), number % 2 == 1)
        yield [Sample(number, f"{number}.jpg", image, masks, torch.arange(2), (4, 5))]


class LoggedStream:
    """A stream that notes what is done with it."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def wait_stream(self, other: "LoggedStream") -> None:
        self.events.append("wait")


def test_next_batch_is_copied_on_a_stream_before_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step waits for the copies before it, not for the copy of the next batch."""
    events: list[str] = []

    @contextmanager
    def stream(used: LoggedStream) -> Iterator[None]:
        events.append("copy on the stream")
        yield

    def record_stream(tensor: torch.Tensor, used: LoggedStream) -> None:
        assert tensor.is_cuda
        events.append("record")

    with pretend_cuda([]) as ledger:
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: LoggedStream(events))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: LoggedStream(events))
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch.Tensor, "record_stream", record_stream)
        for samples in prefetch(batches(events), torch.device("cuda", 0)):
            (sample,) = samples
            events.append(f"step {sample.image_id}")
            assert sample.image.device == sample.masks.device == sample.labels.device
            assert sample.image.is_cuda and (sample.image.cpu() == sample.image_id).all()
            assert (sample.masks.cpu() == bool(sample.image_id % 2)).all()
        assert {kind for kind, _ in ledger.counts} <= {"d2h", "item"}  # of this test
    taken = ["wait", "record", "record", "record"]
    copy = "copy on the stream"
    assert events == [
        *("load 0", copy, *taken),
        *("load 1", copy, "step 0", *taken),
        *("load 2", copy, "step 1", *taken, "step 2"),
    ]


def test_cpu_reads_nothing_ahead() -> None:
    events: list[str] = []
    found = prefetch(batches(events), torch.device("cpu"))
    assert next(found)[0].image_id == 0 and events == ["load 0"]
    assert [samples[0].image_id for samples in found] == [1, 2]
