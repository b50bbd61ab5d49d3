"""Colors of figures in reports and dashboard, readable on light and dark pages.

They are distinguishable with color blindness. Each run, transition class and GT has the same color
everywhere; markers, dashes, numbers or labels distinguish them as well.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

RUN_COLORS = ("#3b82c4", "#d55e00", "#009e73", "#b565a7", "#a67c00", "#4a9aa8")
PAPER_COLOR = "#8a8a8a"

SELECTION_COLOR = "#d55e00"
"""Frame of the selected cell."""
MASK_COLOR = (225, 25, 35)
"""RGB color of a predicted mask: red, as in the paper's Figure 1."""
GT_COLORS = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (125, 111, 208),
)
"""RGB colors of GT masks: Okabe and Ito's palette, without yellow (invisible on white)."""

TRANSITION_COLORS = {
    "kept": "#8a8a8a",
    "refined": "#3b82c4",
    "drifted": "#a67c00",
    "switched": "#d55e00",
    "merged": "#b565a7",
    "split": "#7d6fd0",
    "vanished": "#b3475f",
    "appeared": "#009e73",
}
"""Colors of the classes of `mpdiag.store.transitions`."""

COLORSCALE = "Cividis"
"""Colorscale of fractions and IoUs: dark blue for 0, yellow for 1."""


def cycle(values: Sequence[T], index: int) -> T:
    """Return the color, marker or dash of item `index`; the values repeat."""
    return values[index % len(values)]


def to_hex(color: tuple[int, int, int]) -> str:
    """Convert an RGB color to "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def with_opacity(color: str, opacity: float = 0.16) -> str:
    """Convert "#rrggbb" to a transparent "rgba(...)" color."""
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
