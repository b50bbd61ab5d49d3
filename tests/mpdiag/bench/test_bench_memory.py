"""What `mpdiag bench memory` counts, by a job of known size."""

from collections.abc import Callable
from functools import partial
from io import StringIO

import numpy as np
from rich.console import Console

from mpdiag.bench.memory import analysis, inference, memory_table, peak_of


def hold(before: int, during: int) -> Callable[[], object]:
    """Takes `before` MiB as it prepares, and `during` for a moment as it runs."""
    kept = np.ones(before * 2**20, dtype=np.uint8)

    def run() -> object:
        return int(np.ones(during * 2**20, dtype=np.uint8).sum()) + len(kept)

    return run


def test_the_rise_is_the_jobs_alone() -> None:
    # What lay there before and was freed since doesn't count: a peak is of the job.
    peak = peak_of("hold", partial(hold, 300, 150))
    assert 149 < (peak.peak - peak.before) / 2**20 < 190
    assert peak.before > 300 * 2**20 and peak.as_json()["job"] == "hold"
    console = Console(width=100, file=StringIO())
    console.print(memory_table([peak]))
    assert "hold (CPU)" in console.file.getvalue()


def test_jobs_run(small_config) -> None:
    found = inference(small_config, (50, 70))()
    assert found.masks.shape[1:] == (50, 70)
    assert '"num_images": 3' in analysis(3, (32, 64), small_config)()
