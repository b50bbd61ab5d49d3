"""Measurements besides the runs: costs of models, and the IoU of noised GT masks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpdiag.checkpoints import load_checkpoint
from mpdiag.data import ResizeShortestEdge, SegmentationDataset, drop_empty, padded_targets
from mpdiag.models.complexity import count_multiply_adds, count_parameters, frames_per_second
from mpdiag.models.mask2former import padded_size
from mpdiag.models.mask_noise import (
    PREDICTION_STRIDE,
    CellNoise,
    MaskNoise,
    NeighbourNoise,
    PointNoise,
    QueryMasks,
    ScaleNoise,
    ShiftNoise,
)

MAX_IMAGES = 300
NOISES = ("point", "shift", "scale", "box shift", "cell", "neighbour")
RATIOS = (0.1, 0.2)  # of the example in appendix A, and of training
STRIDES = (4, 8, 16, 32)
HISTOGRAM_BINS = 20
_NUM_EXAMPLES = 3
_QUANTILES = (0.05, 0.5, 0.95)


def model_costs(checkpoints: Mapping[str, Path], height: int, width: int) -> dict[str, Any]:
    """Return parameters, multiply-adds and images per second of each checkpoint.

    Args:
        height, width: size of the image in pixels.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    description = f"the CPU, {threads} {'thread' if threads == 1 else 'threads'}"
    if device.type == "cuda":
        description = torch.cuda.get_device_name()
    costs: dict[str, Any] = {}
    for name, path in checkpoints.items():
        model = load_checkpoint(path).model
        costs[name] = {
            "parameters": count_parameters(model)["total"],
            "multiply_adds": count_multiply_adds(model, height, width)["total"],
            "frames_per_second": frames_per_second(model.to(device).eval(), height, width),
            "height": height,
            "width": width,
            "device": description,
        }
    return costs


def noise_overlap(
    data: SegmentationDataset, short_side: int | None = None, long_side: int = 1333
) -> dict[str, Any]:
    """Return the IoU of noised GT masks with the GT masks (MP-Former, appendix A, Figure 4).

    Noise is drawn as in training, at the strides of the decoder layers and of the predictions. Box
    noise applies shift noise to filled bounding boxes. The paper has no cell and neighbour noise.

    Args:
        data: data set; its first `MAX_IMAGES` images are used.
        short_side, long_side: size of the images at inference.
    """
    overlaps: dict[tuple[str, float, int], list[Tensor]] = {}
    examples: list[dict[str, Any]] = []
    count = min(MAX_IMAGES, len(data))
    for index in range(count):
        sample = data[index]
        if short_side is not None:
            sample = ResizeShortestEdge(short_side, long_side)(sample)
        sample = drop_empty(sample)
        if not len(sample.labels):
            continue
        size = padded_size([sample.size])
        masks = padded_targets([sample], size, torch.device("cpu"))[0]["masks"].bool()
        for key, noised, clean in _noised(masks, size, index):
            iou = _iou(noised, clean)
            overlaps.setdefault(key, []).append(iou[clean.flatten(1).any(1)])
            _keep_example(examples, key, noised, clean, index)
    return {
        "dataset": str(data.describe()["name"]),
        "images": count,
        "rows": [_row(*key, torch.cat(values)) for key, values in overlaps.items()],
        "examples": examples,
    }


def _noised(
    masks: Tensor, size: tuple[int, int], seed: int
) -> Iterator[tuple[tuple[str, float, int], Tensor, Tensor]]:
    """Yield (noise, ratio, stride), noised masks and GT masks, both (G, h, w) bool."""
    queries = QueryMasks([masks], torch.arange(len(masks))[None])
    boxes = QueryMasks([_filled_boxes(queries.at_prediction_stride()[0], masks)], queries.gt)
    for ratio in RATIOS:
        kinds: tuple[tuple[MaskNoise, QueryMasks], ...] = (
            (PointNoise(ratio), queries),
            (ShiftNoise(ratio), queries),
            (ScaleNoise(ratio), queries),
            (ShiftNoise(ratio), boxes),
            (CellNoise(ratio), queries),
            (NeighbourNoise(ratio), queries),
        )
        for name, (noise, clean) in zip(NOISES, kinds, strict=True):
            for stride in STRIDES:
                grid = (size[0] // stride, size[1] // stride)
                generators = [torch.Generator().manual_seed(seed)]
                yield (name, ratio, stride), noise(clean, grid, generators)[0], clean.at(grid)[0]


def _filled_boxes(stride4: Tensor, masks: Tensor) -> Tensor:
    """Return filled boxes (G, H, W) around masks (G, H/4, W/4), at the size of `masks`."""
    rows, columns = stride4.any(2), stride4.any(1)
    return (
        (_between(rows)[:, :, None] & _between(columns)[:, None, :])
        .repeat_interleave(PREDICTION_STRIDE, 1)
        .repeat_interleave(PREDICTION_STRIDE, 2)[:, : masks.shape[1], : masks.shape[2]]
    )


def _between(on: Tensor) -> Tensor:
    """Return (G, K) bool: True from the first to the last True of each row."""
    counts = on.int().cumsum(1)
    backwards = on.int().flip(1).cumsum(1).flip(1)
    return (counts > 0) & (backwards > 0)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU (G,) of masks (G, h, w) bool."""
    union = (a | b).flatten(1).sum(1)
    return (a & b).flatten(1).sum(1) / union.clamp(min=1)


def _row(noise: str, ratio: float, stride: int, values: Tensor) -> dict[str, Any]:
    low, middle, high = torch.quantile(values, torch.tensor(_QUANTILES)).tolist()
    return {
        "noise": noise,
        "ratio": ratio,
        "stride": stride,
        "masks": len(values),
        "mean": values.double().mean().item(),
        "least": values.min().item(),
        "low": low,
        "median": middle,
        "high": high,
        "histogram": torch.histc(values, HISTOGRAM_BINS, 0, 1).int().tolist(),
    }


def _keep_example(
    examples: list[dict[str, Any]],
    key: tuple[str, float, int],
    noised: Tensor,
    clean: Tensor,
    index: int,
) -> None:
    """Add the largest mask of each of the first images, as rows of 0 and 1."""
    noise, ratio, stride = key
    known = sum(example["noise"] == noise for example in examples)
    if ratio != RATIOS[-1] or stride != PREDICTION_STRIDE or known >= _NUM_EXAMPLES:
        return
    largest = int(clean.flatten(1).sum(1).argmax())
    examples.append(
        {
            "image": index,
            "noise": noise,
            "iou": _iou(noised, clean)[largest].item(),
            "clean": _text(clean[largest]),
            "noised": _text(noised[largest]),
        }
    )


def _text(mask: Tensor) -> list[str]:
    return ["".join("1" if cell else "0" for cell in row) for row in mask.tolist()]
