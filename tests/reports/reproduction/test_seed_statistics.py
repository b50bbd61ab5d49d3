"""Statistics over seeds, compared with `statistics` and with scipy's paired t test."""

import statistics

import numpy as np
import pytest
from scipy.stats import ttest_rel

from reports.reproduction.seed_statistics import (
    PairedDifference,
    paired_difference,
    resolvable_effect,
    seed_statistics,
)

A = {0: 0.2297, 1: 0.2319, 2: 0.2218}
B = {0: 0.2497, 1: 0.2466, 2: 0.2532}


def test_mean_and_sample_deviation() -> None:
    found = seed_statistics([*A.values(), None])
    assert found is not None and found.count == 3
    assert found.mean == pytest.approx(statistics.mean(A.values()), abs=1e-15)
    assert found.deviation == pytest.approx(statistics.stdev(A.values()), abs=1e-15)
    one = seed_statistics([0.5])
    assert one is not None and one.deviation is None
    assert seed_statistics([None]) is None


def test_paired_difference_has_the_interval_of_a_paired_t_test() -> None:
    found = paired_difference(A, B)
    low, high = ttest_rel(list(B.values()), list(A.values())).confidence_interval(0.95)
    assert found is not None and found.half_width is not None
    assert found.mean - found.half_width == pytest.approx(low, abs=1e-12)
    assert found.mean + found.half_width == pytest.approx(high, abs=1e-12)


def test_only_seeds_of_both_are_paired() -> None:
    found = paired_difference({0: 0.1, 1: 0.2, 3: None}, {1: 0.5, 2: 0.9, 3: 0.1})
    assert found is not None and (found.seeds, found.half_width) == ((1,), None)
    assert found.mean == pytest.approx(0.3)
    assert paired_difference({0: 0.1}, {1: 0.2}) is None


@pytest.mark.parametrize(
    ("mean", "half_width", "sign", "verdict"),
    [
        (0.02, 0.01, 1, "yes"),
        (0.02, 0.01, -1, "no"),
        (-0.02, 0.01, -1, "yes"),
        (-0.02, 0.01, 1, "no"),
        (0.02, 0.03, 1, "undecided"),
        (0.02, None, 1, "undecided"),
        (0.0, 0.0, 1, "undecided"),
    ],
)
def test_decision_rule(mean: float, half_width: float | None, sign: int, verdict: str) -> None:
    assert PairedDifference(mean, half_width, (0, 1, 2)).verdict(sign) == verdict


def test_resolvable_effect_is_found_in_four_of_five_experiments() -> None:
    # Tables of t: (2.776 + 0.941) / sqrt(5), (4.303 + 1.061) / sqrt(3).
    assert resolvable_effect(5) == pytest.approx(1.662, abs=1e-3)
    assert resolvable_effect(3) == pytest.approx(3.097, abs=1e-3)
    draws = np.random.default_rng(0).normal(resolvable_effect(5), 1, (2000, 5))
    decided = [paired_difference(dict.fromkeys(range(5), 0.0), dict(enumerate(x))) for x in draws]
    share = np.mean([one is not None and one.verdict(1) == "yes" for one in decided])
    assert share == pytest.approx(0.8, abs=0.05)
