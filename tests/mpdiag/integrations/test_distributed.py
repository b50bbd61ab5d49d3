"""Two gloo processes measure what one process measures, with any division of the images."""

import json
from pathlib import Path

import pytest

from mpdiag.store.run import Run

from ...processes import start_ranks
from . import uneven_processes
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


def test_a_process_without_images_gets_the_values_of_the_others(tmp_path: Path) -> None:
    ranks = start_ranks(tmp_path / "streams", 2, uneven_processes.save, tmp_path)
    assert [rank.wait(60) for rank in ranks] == [0, 0], ranks[0].err + ranks[1].err
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second and first["total"] == 1 + 2
    assert "no forward pass" in first["nothing"]["error"]
    for part in ("step", "evaluation"):
        # Of one image, as computed by hand in test_monitor.py.
        assert first[part]["miou_l/1"] == pytest.approx((1 + 0) / 2)
        assert first[part]["instability/1"] == 3 and first[part]["loss_mask/0"] > 0
    assert Run.open(tmp_path / "run").summary["num_images"] == 1
    # detectron2's hook is given the same three images in both processes.
    assert Run.open(tmp_path / "hook").summary["num_images"] == 3
