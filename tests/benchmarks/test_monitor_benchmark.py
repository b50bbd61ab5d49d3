"""`mpdiag bench monitor`."""

from dataclasses import replace

import pytest
import torch

import mpdiag
from benchmarks.memory import TINY
from benchmarks.monitor import bench_monitor, monitor_table


def test_time_and_memory_are_measured(render, monkeypatch: pytest.MonkeyPatch) -> None:
    periods = []

    class Monitor(mpdiag.LayerMonitor):
        def __init__(self, model: torch.nn.Module, every: int) -> None:
            periods.append(every)
            super().__init__(model, every=every)

    monkeypatch.setattr(mpdiag, "LayerMonitor", Monitor)
    cost = bench_monitor(
        TINY,
        (64, 64),
        batch=1,
        every=50,
        repeats=1,
        memory_steps=1,
        device=torch.device("cpu"),
    )
    # Of the idle and the measured steps, and of the memory test; the others have no monitor.
    assert periods == [10**9, 1, 1]
    assert min(cost.step, cost.idle, cost.measured, *cost.memory, *cost.memory_without) > 0
    assert cost.overhead == pytest.approx((cost.measured / cost.step - 1) / 50)
    cost = replace(cost, step=2.0, measured=3.0, memory=(2**20, 3 * 2**20))
    text = render(monitor_table(cost))
    assert "1.00%" in text and "2.0" in text
