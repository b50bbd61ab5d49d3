"""Sections for the paper's Figures 1 and 4."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from reports.document import Picture, Row, Section, Table
from reports.figures import render_figure
from reports.formatting import NO_VALUE
from reports.mask_pairs import draw_pairs, lowest_iou_pairs
from reports.reproduction.results import TrainingResults

NUM_PAIRS = 4  # as in the paper
RATIO = 0.2  # as in training
STRIDE = 4  # of predictions; shapes are moved on this grid

_COLORS = {"point": "#0072B2", "shift": "#D55E00", "scale": "#009E73", "box shift": "#7C7C7C"}
_TITLES = {
    "point": "Point noise on masks",
    "shift": "Shift noise on masks",
    "scale": "Scale noise on masks",
    "box shift": "Shift noise on boxes",
    "cell": "Cell noise (not in the paper)",
    "neighbour": "Neighbour noise (not in the paper)",
}


def figure1(
    training: str,
    results: TrainingResults,
    remarks: tuple[str, ...] = (),
    *,
    show_images: bool = True,
) -> Section:
    """Return the mask pairs with the lowest IoU of the training's first seed."""
    title = "Figure 1: failures of adjacent layers"
    run = results.first_run(training)
    if run is None:
        return Section(title, ("The run for this figure is missing.",), remarks=remarks)
    pairs = lowest_iou_pairs(run, NUM_PAIRS)
    text = (
        f"Each picture shows the mask of one query of {run.name} in two adjacent layers in red: "
        f"the {len(pairs)} pairs with the lowest IoU, one per query, among the queries that match "
        "an object in the last layer. Pairs with an empty mask are left out."
    )
    pictures = draw_pairs(run, pairs, "figure1", show_images=show_images)
    return Section(title, (text,), remarks=remarks, pictures=pictures)


def figure4(noise: Mapping[str, Any] | None, remarks: tuple[str, ...] = ()) -> Section:
    """Return how far each kind of noise moves GT masks."""
    title = "Figure 4: IoU of noised masks"
    if noise is None:
        return Section(title, ("The noise has not been measured.",), remarks=remarks)
    text = (
        f"IoU of noised GT masks with the GT masks, over {noise['images']:,} images of "
        f"{noise['dataset']}. The noise is drawn as in training. The paper argues (appendix A) "
        "that the IoU under point noise is at least 1 - λ, and that under shift noise it depends "
        "on the shape and has no such bound. Shapes move by whole cells of the prediction grid "
        "(stride 4), so small objects often do not move."
    )
    tables = (_distribution(noise["rows"]), _by_stride(noise["rows"]))
    caption = (
        f"Top: distribution of the IoU, λ = {RATIO}, stride {STRIDE}. Bottom: the largest mask of "
        "the first image, GT in red, noised in blue, both in violet."
    )
    picture = Picture("figure4.svg", _draw(noise), caption, "Histograms of IoU, and examples")
    return Section(title, (text,), remarks=remarks, tables=tables, pictures=(picture,))


def _distribution(rows: Sequence[Mapping[str, Any]]) -> Table:
    lines = tuple(
        Row(
            (
                _TITLES[row["noise"]],
                f"{row['ratio']:g}",
                *(f"{100 * row[key]:.1f}" for key in ("mean", "least", "low", "median", "high")),
                f"{100 * (1 - row['ratio']):.1f}" if row["noise"] == "point" else NO_VALUE,
            )
        )
        for row in rows
        if row["stride"] == STRIDE
    )
    columns = ("Noise", "λ", "Mean", "Minimum", "5%", "Median", "95%", "Bound")
    note = (
        f"Percent, of {rows[0]['masks']:,} masks; 5% and 95% are quantiles. Bound: the lowest "
        "IoU that the paper's Eq. 4 allows."
    )
    return Table("IoU with the GT mask at stride 4", columns, lines, note)


def _by_stride(rows: Sequence[Mapping[str, Any]]) -> Table:
    strides = sorted({row["stride"] for row in rows})
    means = {(row["noise"], row["ratio"], row["stride"]): row["mean"] for row in rows}
    kinds = dict.fromkeys((row["noise"], row["ratio"]) for row in rows)
    lines = tuple(
        Row(
            (
                _TITLES[noise],
                f"{ratio:g}",
                *(f"{100 * means[noise, ratio, stride]:.1f}" for stride in strides),
            )
        )
        for noise, ratio in kinds
    )
    columns = ("Noise", "λ", *(f"Stride {stride}" for stride in strides))
    note = "Percent. Decoder layers attend at strides 32, 16 and 8."
    return Table("Mean IoU at the strides of attention masks", columns, lines, note)


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
    """Return an RGB image: GT in red, noised in blue, both in violet, on light grey."""
    clean, noised = (
        np.array([[cell == "1" for cell in line] for line in example[key]])
        for key in ("clean", "noised")
    )
    picture = np.full((*clean.shape, 3), 235, dtype=np.uint8)
    picture[clean & ~noised] = (213, 60, 60)
    picture[noised & ~clean] = (50, 90, 200)
    picture[clean & noised] = (140, 100, 170)
    return picture
