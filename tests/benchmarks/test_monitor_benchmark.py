"""`mpdiag bench monitor`."""

from dataclasses import replace

import pytest
import torch

from benchmarks.monitor import SMALL, bench_monitor, monitor_table


def test_time_and_memory_are_measured(render) -> None:
    cost = bench_monitor(
        SMALL,
        (64, 64),
        batch=1,
        every=50,
        repeats=1,
        memory_steps=2,
        device=torch.device("cpu"),
    )
    assert min(cost.step, cost.idle, cost.measured, *cost.memory, *cost.memory_without) > 0
    cost = replace(cost, step=2.0, measured=3.0, memory=(2**20, 3 * 2**20))
    assert cost.overhead == pytest.approx(1 / (50 * 2))
    text = render(monitor_table(cost))
    assert "1.00%" in text and "2.0" in text
