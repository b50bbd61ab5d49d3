"""Copy the next batch to the GPU while this one computes."""

from collections.abc import Iterator

import torch

from mpdiag.data import Sample


def prefetch(batches: Iterator[list[Sample]], device: torch.device) -> Iterator[list[Sample]]:
    """Yield the batches in order, on `device`.

    On a GPU, batch i + 1 is loaded and copied on a stream of its own before batch i is yielded, so
    its copy runs beside the kernels of step i. On the CPU, nothing is read ahead.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    following = _copy(batches, device, stream)
    while following is not None:
        samples = following
        current.wait_stream(stream)
        for sample in samples:
            for tensor in (sample.image, sample.masks, sample.labels):
                tensor.record_stream(current)  # its memory is not reused before the step is done
        following = _copy(batches, device, stream)
        yield samples


def _copy(
    batches: Iterator[list[Sample]], device: torch.device, stream: torch.cuda.Stream
) -> list[Sample] | None:
    samples = next(batches, None)
    if samples is None:
        return None
    with torch.cuda.stream(stream):
        return [sample.to(device) for sample in samples]
