"""Legible in both themes, and told apart without sight of red or of green."""

import itertools

import numpy as np
import pytest

from apps import palette
from mpdiag.store.transitions import TRANSITIONS

# Viénot, Brettel and Mollon (1999): what linear RGB becomes for protanopes and deuteranopes.
BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.004, -0.004, 1]],
    "deutan": [[0.2927, 0.7073, 0], [0.2927, 0.7073, 0], [-0.0223, 0.0223, 1]],
}


def linear(color):
    rgb = np.array([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """WCAG 2's ratio."""
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
    [*palette.RUNS, palette.PAPER, *palette.TRANSITIONS.values(), *palette.layers(10)],
)
def test_every_colour_has_contrast_on_white_and_on_the_dark_page(color):
    assert contrast(color, "#ffffff") >= 2.9
    assert contrast(color, "#0e1117") >= 2.9


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_layers_run_from_one_end_to_the_other(blindness):
    """Each is nearer to its neighbours than to all others, and the ends are far apart."""
    seen = [lab(color, blindness) for color in palette.layers(10)]
    for order, color in enumerate(seen):
        far = [np.linalg.norm(color - other) for other in seen]
        ranked = sorted(range(10), key=lambda k: far[k])[1:3]
        assert all(abs(other - order) <= 2 for other in ranked)
    assert np.linalg.norm(seen[0] - seen[-1]) > 60


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_neighbouring_runs_differ(blindness):
    for a, b in itertools.pairwise(palette.RUNS):
        assert np.linalg.norm(lab(a, blindness) - lab(b, blindness)) > 10


def test_every_transition_has_its_colour():
    assert list(palette.TRANSITIONS) == list(TRANSITIONS)
    assert len(set(palette.TRANSITIONS.values())) == len(TRANSITIONS)


@pytest.mark.parametrize("count", [1, 2, 10, 16])
def test_any_number_of_layers_has_colours(count):
    assert len(set(palette.layers(count))) == count
