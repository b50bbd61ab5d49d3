"""Two gloo processes under DistributedDataParallel measure what one process measures."""

import json
from pathlib import Path

import pytest

from mpdiag.store.run import Run

from ...processes import start_ranks
from .distributed_step import IMAGES, run, save


@pytest.mark.slow
def test_two_processes_log_the_metrics_of_all_images(tmp_path: Path) -> None:
    ranks = start_ranks(tmp_path / "streams", 2, save, tmp_path)
    alone = run(0, 1, tmp_path)
    assert [rank.wait(120) for rank in ranks] == [0, 0], ranks[0].err + ranks[1].err
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    for part, values in alone.items():
        metrics = {name for name in values if not name.startswith("loss_")}
        assert {"miou_l/2", "util/0", "instability/1", "duplicates/2"} <= metrics
        assert ("dead_queries" in metrics) == (part == "step")
        for name in metrics:
            assert first[part][name] == pytest.approx(values[name], abs=1e-12), name
        assert first[part].keys() == values.keys()
    # The main process writes the images of both.
    runs = [Run.open(tmp_path / f"run-{count}") for count in (1, 2)]
    assert runs[0].summary["layers"] == runs[1].summary["layers"]
    assert runs[1].summary["num_images"] == IMAGES
