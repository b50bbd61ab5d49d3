"""What is measured beside runs: what models cost, and how far noise changes GT masks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpdiag.checkpoints import load_checkpoint
from mpdiag.data import ResizeShortestEdge, SegmentationDataset, drop_empty, padded_targets
from mpdiag.models.complexity import count_multiply_adds, frames_per_second, parameters
from mpdiag.models.mask2former import padded_size
from mpdiag.models.mask_noise import (
    PREDICTION_STRIDE,
    PointNoise,
    QueryMasks,
    ScaleNoise,
    ShiftNoise,
)

IMAGES = 300  # whose masks are noised
RATIOS = (0.1, 0.2)  # of appendix A's example, and of training
STRIDES = (4, 8, 16, 32)
BINS = 20
_EXAMPLES = 3
_QUANTILES = (0.05, 0.5, 0.95)

Noise = Callable[[QueryMasks, tuple[int, int], Sequence[torch.Generator]], Tensor]


def model_costs(checkpoints: Mapping[str, Path], height: int, width: int) -> dict[str, Any]:
    """Parameters, multiply-adds and images per second of models, one after the other.

    Args:
        checkpoints: by name.
        height, width: of the image, in pixels.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    where = f"the CPU, {threads} {'thread' if threads == 1 else 'threads'}"
    if device.type == "cuda":
        where = torch.cuda.get_device_name()
    costs: dict[str, Any] = {}
    for name, path in checkpoints.items():
        model = load_checkpoint(path).model
        costs[name] = {
            "parameters": count_parameters(model)["total"],
            "multiply_adds": count_multiply_adds(model, height, width)["total"],
            "frames_per_second": frames_per_second(model.to(device).eval(), height, width),
            "height": height,
            "width": width,
            "device": where,
        }
    return costs


def noise_overlap(
    data: SegmentationDataset, short_side: int | None = None, long_side: int = 1333
) -> dict[str, Any]:
    """IoU of noised GT masks with the GT masks (MP-Former, section 4.3, appendix A, Figure 4).

    Noise is drawn as in training, at each decoder layer's stride and at that of predictions. Box
    noise shifts filled boxes as shift noise shifts masks.

    Args:
        data: whose first images are taken.
        short_side, long_side: of the images, as at inference.
    """
    overlaps: dict[tuple[str, float, int], list[Tensor]] = {}
    examples: list[dict[str, Any]] = []
    count = min(IMAGES, len(data))
    for index in range(count):
        sample = data[index]
        if short_side is not None:
            sample = ResizeShortestEdge(short_side, long_side)(sample)
        sample = drop_empty(sample)
        if not len(sample.labels):
            continue
        size = padded_size([(sample.image.shape[-2], sample.image.shape[-1])])
        masks = padded_targets([sample], size, torch.device("cpu"))[0]["masks"].bool()
        for key, noised, clean in _noised(masks, size, index):
            found = _iou(noised, clean)
            overlaps.setdefault(key, []).append(found[clean.flatten(1).any(1)])
            _keep_example(examples, key, noised, clean, index)
    gathered = {key: torch.cat(values) for key, values in overlaps.items()}
    return {
        "dataset": str(data.describe()["name"]),
        "images": count,
        "rows": [_row(*key, values) for key, values in gathered.items()],
        "examples": examples,
    }


def _noised(
    masks: Tensor, size: tuple[int, int], seed: int
) -> Iterator[tuple[tuple[str, float, int], Tensor, Tensor]]:
    """(noise, ratio, stride), and (G, h, w) bool: the masks noised, and as they are."""
    slots = QueryMasks([masks], torch.arange(len(masks))[None])
    boxes = QueryMasks([_filled_boxes(slots.at_prediction_stride()[0], masks)], slots.gt)
    for ratio in RATIOS:
        kinds: tuple[tuple[str, Noise, QueryMasks], ...] = (
            ("point", PointNoise(ratio), slots),
            ("shift", ShiftNoise(ratio), slots),
            ("scale", ScaleNoise(ratio), slots),
            ("box shift", ShiftNoise(ratio), boxes),
        )
        for name, noise, own in kinds:
            for stride in STRIDES:
                grid = (size[0] // stride, size[1] // stride)
                stream = [torch.Generator().manual_seed(seed)]
                yield (name, ratio, stride), noise(own, grid, stream)[0], own.at(grid)[0]


def _filled_boxes(finest: Tensor, masks: Tensor) -> Tensor:
    """(G, H, W) boxes around (G, H/4, W/4) masks, filled, at the size of `masks`."""
    rows, columns = finest.any(2), finest.any(1)
    return (
        (_between(rows)[:, :, None] & _between(columns)[:, None, :])
        .repeat_interleave(PREDICTION_STRIDE, 1)
        .repeat_interleave(PREDICTION_STRIDE, 2)[:, : masks.shape[1], : masks.shape[2]]
    )


def _between(on: Tensor) -> Tensor:
    """(G, K) from the first to the last that is on."""
    counts = on.int().cumsum(1)
    backwards = on.int().flip(1).cumsum(1).flip(1)
    return (counts > 0) & (backwards > 0)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """(G,) IoU of (G, h, w) bool masks."""
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
        "histogram": torch.histc(values, BINS, 0, 1).int().tolist(),
    }


def _keep_example(
    examples: list[dict[str, Any]],
    key: tuple[str, float, int],
    noised: Tensor,
    clean: Tensor,
    index: int,
) -> None:
    """The largest mask of each of the first images, as rows of 0 and 1, as training sees it."""
    noise, ratio, stride = key
    if ratio != RATIOS[-1] or stride != PREDICTION_STRIDE or len(examples) >= 4 * _EXAMPLES:
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
