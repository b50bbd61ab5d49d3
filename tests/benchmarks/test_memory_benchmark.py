"""`mpdiag bench memory`, with a job of known size."""

from functools import partial

import numpy as np
import pytest

from benchmarks.memory import analysis, inference, memory_table, training_step
from benchmarks.peak_memory import measure_peak


@pytest.mark.slow
def test_peak_excludes_memory_from_before_the_job(render) -> None:
    # The arguments take 100 MiB, plus as many to unpickle them, which are freed; the job allocates
    # 100 MiB more. NumPy's function is used because the process cannot import test modules.
    held = np.ones(100 * 2**20, dtype=np.uint8)
    peak = measure_peak("hold", partial(partial, np.add, held, held))
    assert 99 < (peak.peak - peak.before) / 2**20 < 140
    assert peak.before > 100 * 2**20 and peak.job == "hold"
    assert "hold (CPU)" in render(memory_table([peak]))


def test_jobs_run(small_config, small_recipe) -> None:
    instances = inference(small_config, (50, 70))()
    assert instances.masks.shape[1:] == (50, 70)
    assert '"num_images": 3' in analysis(3, (32, 64), small_config)()
    losses, norm = training_step(small_recipe("method=piloted"), (64, 96))()
    assert norm.isfinite() and {"loss_mask", "loss_mask_dn"} <= losses.keys()
