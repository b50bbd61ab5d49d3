"""Estimated cost of a reproduction, and number of concurrent trainings of a machine."""

import json
import os
from pathlib import Path

import pytest
import torch

from mpdiag.errors import DataError, TrainingError
from mpdiag.reproduce import (
    SIZES,
    ReproductionOptions,
    cost_estimate,
    display,
    scheduler,
    select_size,
)
from mpdiag.reproduce.cost_estimate import estimate_cost
from mpdiag.reproduce.directory import Job
from mpdiag.reproduce.scheduler import plan_machine

from ...processes import context


@pytest.fixture
def two_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReproductionOptions:
    """Return options of the baseline with two seeds; a step takes half a second."""
    monkeypatch.setattr(cost_estimate, "call_in_child", lambda function, *given: 0.5)
    return ReproductionOptions(["figure1"], select_size("tiny"), [0, 1], tmp_path / "out")


def test_time_is_remaining_steps_times_seconds_per_step(two_seeds: ReproductionOptions) -> None:
    trainings, directory, size = two_seeds.trainings(), two_seeds.directory, two_seeds.size
    found = estimate_cost(trainings, directory, size)
    assert (found.trainings, found.analyses) == (2, 2)
    batch_size = trainings[0].config.data.batch_size
    analysis = 1000 * 1.5 / batch_size  # in steps
    assert found.seconds == pytest.approx(2 * (1500 + analysis) * 0.5)
    assert found.basis == "4 steps"


def test_logged_steps_give_the_time_and_finished_jobs_cost_nothing(
    two_seeds: ReproductionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(cost_estimate, "call_in_child")  # no step is timed
    trainings, directory, size = two_seeds.trainings(), two_seeds.directory, two_seeds.size
    for trained, steps in zip(trainings, (1500, 500), strict=True):
        output = directory.training(trained.name)
        output.mkdir(parents=True)
        line = json.dumps({"iteration": steps - 1, "time": 0.2})
        (output / "metrics.json").write_text(line + "\n")
    (directory.training(trainings[0].name) / "model_final.pth").touch()
    found = estimate_cost(trainings, directory, size)
    assert (found.trainings, found.analyses) == (1, 2)
    analyses = 2 * 1000 * 1.5 / trainings[0].config.data.batch_size  # in steps
    assert found.seconds == pytest.approx((1000 + analyses) * 0.2)
    assert found.basis == "steps of earlier runs"


def test_each_method_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"per-pixel": 0.1, "baseline": 0.5, "piloted": 0.7}
    monkeypatch.setattr(
        cost_estimate, "call_in_child", lambda function, config, size: seconds[config.method]
    )
    options = ReproductionOptions(["table4"], select_size("photos"), [0], tmp_path)
    (tmp_path / "data" / "facade-128").mkdir(parents=True)
    first = options.warm_start()
    assert first is not None
    every = [first, *options.trainings()]
    found = estimate_cost(every, options.directory, options.size)
    assert found.seconds == pytest.approx(800 * 0.1 + 2500 * 0.5 + 4 * 2500 * 0.7)


def test_description_of_the_cost(two_seeds: ReproductionOptions) -> None:
    found = estimate_cost(two_seeds.trainings(), two_seeds.directory, two_seeds.size)
    machine = scheduler.Machine(({}, {}), 1, "here")
    text = display.describe_cost(found, 2, machine)
    assert "2 of 2 trainings and 2 analyses to run on here, 2 trainings at a time" in text
    assert "about 13 min (estimated from 4 steps)" in text and "MiB of disk" in text
    alone = estimate_cost(two_seeds.trainings()[:1], two_seeds.directory, two_seeds.size)
    assert "1 of 1 training and 1 analysis to run on" in display.describe_cost(alone, 1, machine)
    alone.trainings = alone.analyses = 0
    assert display.describe_cost(alone, 1, machine) == "All jobs of 1 training are finished."
    assert [display._format_duration(seconds) for seconds in (89, 90, 5400)] == [
        "89 s",
        "2 min",
        "1 h 30 min",
    ]


def test_description_says_why_the_time_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = scheduler.Machine(({},), 1, "here")

    def describe(target: str, size: str) -> str:
        options = ReproductionOptions([target], select_size(size), [0], tmp_path / size, tmp_path)
        every = options.trainings()[:1]
        found = estimate_cost(every, options.directory, options.size)
        return display.describe_cost(found, 1, machine)

    text = describe("table4", "photos")
    assert text.endswith(
        "of disk space; the time is not known: the first call cuts the tiles that a step needs."
    )
    # 3.7 million parameters with 16 bytes each, and 600 kB of masks
    assert "about 57 MiB of disk space" in text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = describe("table4", "paper")
    assert text.endswith("the time is not known: a step at this size takes minutes on a CPU.")
    assert "about 672 MiB of disk space" in text  # 43,970,257 parameters

    def fail(*_: object) -> float:
        raise DataError("/data [coco]: not found; set --root")

    monkeypatch.setattr(cost_estimate, "call_in_child", fail)
    text = describe("figure1", "tiny")
    assert text.endswith(r"the time is not known: /data \[coco]: not found; set --root.")


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, cores: int, free: int) -> None:
    monkeypatch.setattr(scheduler.os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(scheduler, "call_in_child", lambda function: ("GPU", free << 30))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_one_at_a_time_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, gpus=0, cores=8, free=0)
    monkeypatch.setattr(scheduler, "_CPUINFO", tmp_path / "cpuinfo")
    found = plan_machine(SIZES["tiny"], None)
    assert (found.slots, found.processes_per_training, found.description) == (
        ({},),
        1,
        "8 CPU cores",
    )
    assert str(found) == "8 CPU cores, 1 training at a time"
    assert plan_machine(SIZES["tiny"], 3).slots == ({"OMP_NUM_THREADS": "2"},) * 3


def test_description_names_the_processor_on_linux(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, gpus=0, cores=2, free=0)
    monkeypatch.setattr(scheduler, "_CPUINFO", tmp_path / "cpuinfo")
    core = "processor\t: {}\nvendor_id\t: A\nmodel name\t: Fast CPU: the 2nd\n\n"
    (tmp_path / "cpuinfo").write_text(core.format(0) + core.format(1))
    found = plan_machine(SIZES["tiny"], 2)
    assert str(found) == "2 CPU cores (Fast CPU: the 2nd), 2 trainings at a time"


@pytest.mark.parametrize(
    ("gpus", "cores", "free", "count"),
    [(1, 64, 79, 19), (1, 16, 79, 8), (2, 64, 22, 10), (1, 16, 2, 1), (1, 1, 79, 1)],
)
def test_memory_and_cores_limit_concurrent_trainings(
    monkeypatch: pytest.MonkeyPatch, gpus: int, cores: int, free: int, count: int
) -> None:
    machine(monkeypatch, gpus, cores, free)
    found = plan_machine(SIZES["small"], None)
    assert len(found.slots) == count and found.processes_per_training == 1
    used = [slot["CUDA_VISIBLE_DEVICES"] for slot in found.slots]
    assert used == [str(number % gpus) for number in range(count)]


@pytest.mark.parametrize(
    ("visible", "gpus", "used"),
    [
        ("4,5", 2, ["4", "5", "4"]),
        ("7", 1, ["7", "7", "7"]),
        ("GPU-8f2a, MIG-1/3/0", 2, ["GPU-8f2a", "MIG-1/3/0", "GPU-8f2a"]),
        ("2,-1,0", 1, ["2", "2", "2"]),  # CUDA ignores all entries after an invalid one
    ],
)
def test_only_gpus_that_the_user_made_visible_are_used(
    monkeypatch: pytest.MonkeyPatch, visible: str, gpus: int, used: list[str]
) -> None:
    machine(monkeypatch, gpus, cores=64, free=79)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = plan_machine(SIZES["small"], 3)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in found.slots] == used
    assert all("CUDA_VISIBLE_DEVICES" not in slot for slot in plan_machine(SIZES["paper"], 3).slots)


def test_a_call_in_a_child_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first steps are timed in one, since a process that trained keeps memory on the GPU.

    It is spawned: a fork cannot use the GPU of its parent. The server of the tests is faster.
    """
    monkeypatch.setattr(scheduler, "get_context", {"spawn": context}.__getitem__)
    assert scheduler.call_in_child(os.getpid) != os.getpid()
    with pytest.raises(FileNotFoundError):
        scheduler.call_in_child(os.stat, tmp_path / "missing")
    with pytest.raises(TrainingError, match="was killed"):
        scheduler.call_in_child(os._exit, 9)


def test_size_paper_uses_all_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, gpus=4, cores=64, free=79)
    found = plan_machine(SIZES["paper"], None)
    assert (found.slots, found.processes_per_training) == (({},), 4)
    words = Job("one", ("train", "recipe"), tmp_path).command(4)
    assert words[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    assert words[-4:] == ["-m", "mpdiag", "train", "recipe"]
