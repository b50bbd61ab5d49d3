"""Draw the pictures of the documentation: python docs/images/make_images.py

`layers.png` shows one query of the two packaged models of `mpdiag demo --quick`; the other pictures
are drawings.
"""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

import mpdiag
from mpdiag.data import load_dataset
from mpdiag.demo import METHODS, WEIGHTS
from mpdiag.matching import match

OUTPUT = Path(__file__).parent
BLUE, ORANGE, GREY, GREEN = "#3b82c4", "#e07b39", "#c8ccd1", "#2e9e6b"
Bools = npt.NDArray[np.bool_]

matplotlib.use("Agg")
plt.rcParams.update(
    {"font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "mpdiag", "font.family": "sans-serif"}
)


def draw_layers() -> None:
    """Draw the chain of layers of a masked-attention decoder."""
    figure, axes = plt.subplots(figsize=(8.2, 2.5))
    for column, (layer, predicted) in enumerate([("queries", 0), ("layer 1", 1), ("layer 2", 2)]):
        x = 2.9 * column
        color = GREY if column == 0 else BLUE
        _box(axes, x, 1.3, layer, color)
        _box(axes, x, 0, f"$M^{predicted}$: masks", "white")
        _arrow(axes, (x + 0.9, 1.3), (x + 0.9, 0.6), GREY)
        if column < 2:
            _arrow(axes, (x + 1.8, 1.6), (x + 2.9, 1.6), GREY)
            _arrow(axes, (x + 1.8, 0.3), (x + 3.3, 1.3), ORANGE)
    axes.text(7.75, 1.6, " …  layer L", va="center")
    axes.text(7.75, 0.3, " …  $M^L$: final", va="center")
    axes.text(2.0, -0.45, "orange: the mask limits where the query attends in the next layer",
              color=ORANGE)  # fmt: skip
    axes.set(xlim=(-0.2, 9.6), ylim=(-0.6, 2.1))
    _save(figure, axes, "concept-layers.svg")


def draw_miou() -> None:
    """Draw two queries: one moves its mask by a column, one jumps to another object."""
    figure, axes = plt.subplots(figsize=(8.2, 2.7))
    before, after = np.zeros((2, 2, 5, 8), dtype=np.bool_)
    before[0, 1:4, 1:4] = after[0, 1:4, 2:5] = True
    before[1, 1:4, 0:3] = after[1, 1:4, 5:8] = True
    titles = ("query 1: 6 of 12 cells shared", "query 2: 0 of 18 cells shared")
    for number in (0, 1):
        x = 9.5 * number
        _grid(axes, x, before[number], after[number])
        shared, union = before[number] & after[number], before[number] | after[number]
        iou = shared.sum() / union.sum()
        axes.text(x + 4, 5.6, titles[number], ha="center")
        axes.text(x + 4, -0.9, f"IoU = {iou:.1f}", ha="center", weight="bold")
    for y, color, text in ((4.2, BLUE, "$M^{i-1}$ only"), (3.0, GREEN, "both"),
                           (1.8, ORANGE, "$M^i$ only")):  # fmt: skip
        axes.add_patch(Rectangle((19, y - 0.4), 0.8, 0.8, color=color))
        axes.text(20.1, y, text, va="center")
    axes.set(xlim=(-0.3, 23.5), ylim=(-1.4, 6.4), aspect="equal")
    _save(figure, axes, "concept-miou.svg")


def draw_util() -> None:
    """Draw the matches of three objects in three layers; those of the last layer are green."""
    figure, axes = plt.subplots(figsize=(8.2, 2.9))
    matches = {1: (1, 3, 2), 2: (1, 2, 4), 3: (1, 2, 3)}
    final = matches[3]
    for column, (layer, queries) in enumerate(matches.items()):
        x = 4.2 * column
        for row, name in enumerate("ABC"):
            axes.text(x, 2.6 - row, name, ha="center", va="center", weight="bold")
        for query in range(1, 5):
            axes.text(x + 2, 4 - query, f"query {query}", va="center")
        for row, query in enumerate(queries):
            same = query == final[row]
            axes.plot([x + 0.25, x + 1.9], [2.6 - row, 4 - query], lw=2,
                      color=GREEN if same else GREY)  # fmt: skip
        kept = sum(query == last for query, last in zip(queries, final, strict=True))
        name = f"layer {layer}" + (" (last)" if layer == 3 else "")
        util = "1" if kept == 3 else f"{kept}/3"
        axes.text(x + 1.2, 3.8, f"{name}: Util = {util}", ha="center")
    axes.set(xlim=(-0.4, 11.9), ylim=(-0.4, 4.2))
    _save(figure, axes, "concept-util.svg")


def draw_transitions() -> None:
    """Draw one change of a mask for each class of transitions, with the outlines of two objects."""
    figure, axes = plt.subplots(figsize=(8.2, 3.6))
    a, b, none = np.zeros((3, 5, 8), dtype=np.bool_)
    a[1:4, 0:3] = b[1:4, 5:8] = True
    part, moved = a.copy(), np.roll(a, 1, axis=0)
    part[:, 2] = False
    changes = {"kept": (a, a), "refined": (part, a), "drifted": (a, moved), "switched": (a, b),
               "merged": (a, a | b), "split": (a | b, a), "vanished": (a, none),
               "appeared": (none, a)}  # fmt: skip
    for number, (name, (before, after)) in enumerate(changes.items()):
        x, y = 9.5 * (number % 4), -7.5 * (number // 4)
        _grid(axes, x, before, after, y)
        for left in (0, 5):
            axes.add_patch(Rectangle((x + left, y + 1), 3, 3, fill=False, lw=1.4, ls="--"))
        axes.text(x + 4, y + 5.5, name, ha="center", weight="bold")
    for x, color, text in ((2, BLUE, "$M^{i-1}$ only"), (11, GREEN, "both"),
                           (17, ORANGE, "$M^i$ only")):  # fmt: skip
        axes.add_patch(Rectangle((x, -9.9), 1, 1, color=color))
        axes.text(x + 1.5, -9.4, text, va="center")
    axes.add_patch(Rectangle((25, -9.9), 1, 1, fill=False, lw=1.4, ls="--"))
    axes.text(26.5, -9.4, "object", va="center")
    axes.set(xlim=(-0.3, 37), ylim=(-10.4, 6.6), aspect="equal")
    _save(figure, axes, "concept-transitions.svg")


def draw_one_query() -> None:
    """Draw the query of one object in all layers of the baseline and of multi-layer MP."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        mpdiag.data.generate_synthetic(root / "synthetic", train=1, val=60)
        data = load_dataset("synthetic", root=root)
        found = [_most_different(data, index) for index in range(len(data))]
        index, gt = max((score, index, gt) for index, (score, gt) in enumerate(found))[1:]
        sample = data[index]
    figure, rows = plt.subplots(2, 10, figsize=(13, 3.5), layout="constrained")
    image, outline = sample.image.permute(1, 2, 0).numpy(), sample.masks[gt].numpy()
    titles = ("baseline", "mask piloting")
    for axes_row, name, title in zip(rows, METHODS, titles, strict=True):
        masks, matched = _predict(name, sample)
        query = int((matched[-1] == gt).nonzero()[0, 0])
        for layer, axes in enumerate(axes_row):
            _panel(
                axes,
                image,
                outline,
                masks[layer, query],
                masks[layer - 1, query] if layer else None,
            )
            axes.set_title(f"$M^{layer}$", fontsize=11)
        axes_row[0].set_ylabel(title, fontsize=11)
    figure.savefig(OUTPUT / "layers.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def _predict(name: str, sample: Any) -> tuple[Bools, torch.Tensor]:
    """Return masks (L + 1, N, h, w) and the matched GT (L + 1, N) of a packaged model."""
    model = mpdiag.load_model(WEIGHTS / f"demo-{name}.pth").eval()
    with torch.no_grad(), mpdiag.record(model) as recording:
        model([sample.image])
    targets = [{"labels": sample.labels, "masks": sample.masks}]
    matched = match(recording.class_logits, recording.mask_logits, targets)[:, 0]
    return (recording.mask_logits[:, 0] > 0).numpy(), matched


def _most_different(data: Any, index: int) -> tuple[float, int]:
    """Return how many more layers the baseline needs to find an object's query, and the object."""
    sample = data[index]
    if len(sample.labels) == 0:
        return -1.0, 0
    late = []
    for name in METHODS:
        masks, matched = _predict(name, sample)
        last = [(matched[-1] == gt).nonzero() for gt in range(len(sample.labels))]
        queries = [int(found[0, 0]) if len(found) else -1 for found in last]
        late.append([_change(masks[:, query]) if query >= 0 else 0.0 for query in queries])
    difference = np.array(late[0]) - np.array(late[1])
    return float(difference.max()), int(difference.argmax())


def _change(masks: Bools) -> float:
    """Return the sum over layers of 1 - IoU with the layer before."""
    return sum(1 - (a & b).sum() / max((a | b).sum(), 1) for a, b in pairwise(masks))


def _panel(axes: Axes, image: Any, outline: Any, mask: Bools, before: Bools | None) -> None:
    scale = len(image) // len(mask)
    large = mask.repeat(scale, 0).repeat(scale, 1)
    grey = image.mean(2, keepdims=True) / 255 * 0.5 + 0.45
    shown = np.where(large[..., None], 0.2 * grey + 0.8 * np.array([0.11, 0.42, 0.85]), grey)
    axes.imshow(shown, interpolation="nearest")
    axes.contour(outline, [0.5], colors=[ORANGE], linewidths=1.8)
    axes.set(xticks=[], yticks=[])
    if before is None:
        axes.set_xlabel(" ")
        return
    union = (mask | before).sum()
    axes.set_xlabel(f"IoU {(mask & before).sum() / union:.2f}" if union else "empty")


def _grid(axes: Axes, x: float, before: Bools, after: Bools, y: float = 0) -> None:
    rows, columns = before.shape
    for row in range(rows):
        for column in range(columns):
            old, new = before[row, column], after[row, column]
            color = GREEN if old and new else BLUE if old else ORANGE if new else "white"
            axes.add_patch(
                Rectangle((x + column, y + row), 1, 1, facecolor=color, edgecolor=GREY, lw=0.8)
            )


def _box(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    axes.add_patch(Rectangle((x, y), 1.8, 0.6, facecolor=color, edgecolor="#888888", alpha=0.55))
    axes.text(x + 0.9, y + 0.3, text, ha="center", va="center", fontsize=9)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=color, lw=1.6)
    axes.add_patch(arrow)


def _save(figure: Any, axes: Axes, name: str) -> None:
    axes.axis("off")
    figure.savefig(OUTPUT / name, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw_layers()
    draw_miou()
    draw_util()
    draw_transitions()
    draw_one_query()
