"""What `mpdiag bench memory` counts, by a job of known size."""

from functools import partial
from io import StringIO

import numpy as np
from rich.console import Console

from benchmarks.memory import analysis, inference, memory_table, peak_of


def test_the_rise_is_the_jobs_alone() -> None:
    # The job holds 100 MiB, which came to its process by way of as many more, since freed, and then
    # makes another 100. All of it is NumPy's: the process has no way to the functions of a test.
    held = np.ones(100 * 2**20, dtype=np.uint8)
    peak = peak_of("hold", partial(partial, np.add, held, held))
    assert 99 < (peak.peak - peak.before) / 2**20 < 140
    assert peak.before > 100 * 2**20 and peak.as_json()["job"] == "hold"
    console = Console(width=100, file=StringIO())
    console.print(memory_table([peak]))
    assert "hold (CPU)" in console.file.getvalue()


def test_jobs_run(small_config) -> None:
    found = inference(small_config, (50, 70))()
    assert found.masks.shape[1:] == (50, 70)
    assert '"num_images": 3' in analysis(3, (32, 64), small_config)()
