"""Colors are readable in both themes and distinguishable with color blindness."""

import itertools

import numpy as np
import pytest

from mpdiag.store.transitions import TRANSITIONS
from reports import palette

# Viénot, Brettel and Mollon (1999): linear RGB as seen by protanopes and deuteranopes.
BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.004, -0.004, 1]],
    "deutan": [[0.2927, 0.7073, 0], [0.2927, 0.7073, 0], [-0.0223, 0.0223, 1]],
}


def linear(color):
    rgb = np.array([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """Return the contrast ratio of WCAG 2."""
    dark, light = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (light + 0.05) / (dark + 0.05)


def lab(color, blindness):
    xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ) @ np.clip(np.asarray(BLINDNESS[blindness]) @ linear(color), 0, 1)
    x, y, z = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(
    "color",
    [
        *palette.RUN_COLORS,
        palette.PAPER_COLOR,
        *palette.TRANSITION_COLORS.values(),
    ],
)
def test_every_color_has_contrast_in_both_themes(color):
    assert contrast(color, "#ffffff") >= 2.9
    assert contrast(color, "#0e1117") >= 2.9


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colors_of_consecutive_runs_differ(blindness):
    for a, b in itertools.pairwise(palette.RUN_COLORS):
        assert np.linalg.norm(lab(a, blindness) - lab(b, blindness)) > 10


def test_every_transition_class_has_its_own_color():
    assert list(palette.TRANSITION_COLORS) == list(TRANSITIONS)
    assert len(set(palette.TRANSITION_COLORS.values())) == len(TRANSITIONS)
