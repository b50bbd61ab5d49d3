"""The colours of the dashboard: legible on white and on black, and without sight of red or green.

Whatever stands for a layer has the layer's colour on every page, and a run, a kind of transition
and a GT have theirs. Each is also told apart by something else: a marker, a dash, a number, a word.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

RUNS = ("#3b82c4", "#d55e00", "#009e73", "#b565a7", "#a67c00", "#4a9aa8")
RUN_MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon")
PAPER = "#8a8a8a"
PAPER_DASHES = ("dash", "dot", "dashdot")
PAPER_MARKERS = ("circle-open", "square-open", "diamond-open")

CHOSEN = "#d55e00"
"""Frames what is chosen."""
MASK = (225, 25, 35)
"""A predicted mask is red, as in the paper's Figure 1; RGB."""
GT = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (125, 111, 208))
"""GT masks in turn, RGB; Okabe and Ito's colours, without their yellow, which white swallows."""

TRANSITIONS = {
    "kept": "#8a8a8a",
    "refined": "#3b82c4",
    "drifted": "#a67c00",
    "switched": "#d55e00",
    "merged": "#b565a7",
    "split": "#7d6fd0",
    "vanished": "#b3475f",
    "appeared": "#009e73",
}
"""The classes of mpdiag.store.transitions."""

HEAT = "Cividis"
"""Plotly's name of the scale for shares and IoUs: dark blue for 0, yellow for 1."""

# From blue over a greyish violet to orange: hue and lightness both rise, and blue and orange stay
# apart for every common colour blindness.
_LAYERS = ((42, 106, 200), (125, 110, 170), (190, 110, 105), (212, 128, 24))


def nth(cycle: Sequence[T], order: int) -> T:
    """The colour or mark of the run, reference or GT number `order`, over and over."""
    return cycle[order % len(cycle)]


def layers(count: int) -> list[str]:
    """One colour for each of layers 0..count - 1, from first to last: "#rrggbb"."""
    return [css(_between(order / max(count - 1, 1))) for order in range(count)]


def css(color: tuple[int, int, int]) -> str:
    """An RGB colour as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def faint(color: str, opacity: float = 0.16) -> str:
    """The colour "#rrggbb" made transparent: for bands and flows."""
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _between(share: float) -> tuple[int, int, int]:
    place = share * (len(_LAYERS) - 1)
    first = min(int(place), len(_LAYERS) - 2)
    weight = place - first
    red, green, blue = (
        round(a + weight * (b - a)) for a, b in zip(_LAYERS[first], _LAYERS[first + 1], strict=True)
    )
    return red, green, blue
