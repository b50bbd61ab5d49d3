"""The paper's Figures 1 and 4, measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from reports.document import Picture, Row, Section, Table
from reports.figures import render_figure
from reports.formatting import NO_VALUE
from reports.mask_pairs import draw_pairs, lowest_iou_pairs
from reports.reproduction.results import TrainingResults

PAIRS = 4  # as in the paper
RATIO = 0.2  # of training
STRIDE = 4  # of predictions, on which shapes are moved

_COLORS = {"point": "#0072B2", "shift": "#D55E00", "scale": "#009E73", "box shift": "#7C7C7C"}
_TITLES = {
    "point": "Point noise on masks",
    "shift": "Shift noise on masks",
    "scale": "Scale noise on masks",
    "box shift": "Shift noise on boxes",
}


def figure1(training: str, results: TrainingResults) -> Section:
    """The failure pairs of Mask2Former's first seed."""
    title = "Figure 1: failures of adjacent layers"
    run = results.first(training)
    if run is None:
        return Section(title, text=("The run that it is drawn from is missing.",))
    pairs = lowest_iou_pairs(run, PAIRS)
    text = (
        f"The same query of {run.name} in two adjacent layers, its mask in red: the {len(pairs)} "
        "pairs of least IoU among the queries that match an object in the last layer and whose "
        "masks change most; pairs with an empty mask are left out."
    )
    return Section(title, text=(text,), pictures=draw_pairs(run, pairs, "figure1"))


def figure4(noise: Mapping[str, Any] | None) -> Section:
    """How far each kind of noise moves GT masks."""
    title = "Figure 4: IoU of noised masks"
    if noise is None:
        return Section(title, text=("The noise has not been measured.",))
    text = (
        f"IoU of noised GT masks with the GT masks, over {noise['images']:,} images of "
        f"{noise['dataset']}, noise drawn as in training. The paper's argument (appendix A): under "
        "point noise the IoU is at least 1 less λ, under shifts it depends on the shape and has no "
        "such bound. Shapes are moved on the grid of predictions (stride 4) and by whole "
        "cells, so that small objects often stay where they are."
    )
    tables = (_distribution(noise["rows"]), _by_stride(noise["rows"]))
    caption = (
        f"Above: how often each IoU occurs, λ = {RATIO}, stride {STRIDE}. Below: the largest mask "
        "of the first image, GT in red, noised in blue, both in violet."
    )
    picture = Picture("figure4.svg", _draw(noise), caption, "Histograms of IoU, and examples")
    return Section(title, text=(text,), tables=tables, pictures=(picture,))


def _distribution(measured: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        Row(
            (
                _TITLES[row["noise"]],
                f"{row['ratio']:g}",
                *(f"{100 * row[key]:.1f}" for key in ("mean", "least", "low", "median", "high")),
                f"{100 * (1 - row['ratio']):.1f}" if row["noise"] == "point" else NO_VALUE,
            )
        )
        for row in measured
        if row["stride"] == STRIDE
    )
    head = ("Noise", "λ", "Mean", "Least", "5%", "Median", "95%", "Bound")
    note = (
        f"Percent, of {measured[0]['masks']:,} masks; 5% and 95% are quantiles. Bound: the least "
        "IoU that the paper's Eq. 4 allows."
    )
    return Table("IoU with the GT mask at stride 4", head, rows, note)


def _by_stride(measured: Sequence[Mapping[str, Any]]) -> Table:
    strides = sorted({row["stride"] for row in measured})
    means = {(row["noise"], row["ratio"], row["stride"]): row["mean"] for row in measured}
    kinds = dict.fromkeys((row["noise"], row["ratio"]) for row in measured)
    rows = tuple(
        Row(
            (
                _TITLES[noise],
                f"{ratio:g}",
                *(f"{100 * means[noise, ratio, stride]:.1f}" for stride in strides),
            )
        )
        for noise, ratio in kinds
    )
    head = ("Noise", "λ", *(f"Stride {stride}" for stride in strides))
    note = "Percent. Decoder layers attend at strides 32, 16 and 8."
    return Table("Mean IoU at the strides of attention masks", head, rows, note)


def _draw(noise: Mapping[str, Any]) -> bytes:
    def figure() -> Figure:
        canvas = Figure(figsize=(9, 4.2), layout="constrained")
        axes = canvas.subplots(2, 4, height_ratios=(1.1, 1))
        for column, kind in enumerate(_COLORS):
            row = next(
                row
                for row in noise["rows"]
                if (row["noise"], row["ratio"], row["stride"]) == (kind, RATIO, STRIDE)
            )
            shares = 100 * np.array(row["histogram"]) / max(row["masks"], 1)
            edges = np.linspace(0, 100, len(shares) + 1)
            top, below = axes[0, column], axes[1, column]
            top.stairs(shares, edges, fill=True, color=_COLORS[kind])
            top.set_title(_TITLES[kind], fontsize=9.5)
            top.set_xlabel("IoU in percent")
            top.set_xlim(0, 100)
            top.set_ylim(0, 100)
            below.axis("off")
            example = next((x for x in noise["examples"] if x["noise"] == kind), None)
            if example is not None:
                below.imshow(_overlay(example), interpolation="nearest")
                below.set_title(f"IoU {100 * example['iou']:.0f}%", fontsize=9)
        axes[0, 0].set_ylabel("Percent of masks")
        return canvas

    return render_figure(figure, "svg")


def _overlay(example: Mapping[str, Any]) -> "np.typing.NDArray[np.uint8]":
    """GT in red, noised in blue, both in violet, on light grey."""
    clean, noised = (
        np.array([[cell == "1" for cell in line] for line in example[key]])
        for key in ("clean", "noised")
    )
    picture = np.full((*clean.shape, 3), 235, dtype=np.uint8)
    picture[clean & ~noised] = (213, 60, 60)
    picture[noised & ~clean] = (50, 90, 200)
    picture[clean & noised] = (140, 100, 170)
    return picture
