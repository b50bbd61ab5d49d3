"""What the tables consist of, at each size."""

from pathlib import Path

import pytest

from mpdiag.config import TrainConfig
from mpdiag.errors import ConfigError
from mpdiag.reproduce import SIZES, ReproductionOptions, find_size, parse_seeds
from mpdiag.reproduce.experiments import TRAININGS, required_trainings, seeded
from reports.reproduction import TABLES


def configs(size: str) -> dict[str, TrainConfig]:
    trainings = required_trainings(["all"], SIZES[size])
    return {one.name: seeded(one, 0, SIZES[size], None).config for one in trainings}


def test_tiny_trains_what_the_papers_recipes_train() -> None:
    """Each training's method at size tiny is that of the packaged recipe of its row."""
    found = configs("tiny")
    assert len(found) == 14
    for name, training in TRAININGS.items():
        if name not in found or training.recipe is None:
            continue
        ours, theirs = found[name], seeded(training, 0, SIZES["paper"], None).config
        assert ours.method == theirs.method, name
        assert ours.model.feature_maps == theirs.model.feature_maps, name
        if ours.method == "piloted":
            size = {"queries": theirs.pilot.queries}
            assert ours.pilot.model_copy(update=size) == theirs.pilot, name


def test_every_training_of_a_size_differs_from_the_others() -> None:
    for size in SIZES:
        dumped = [config.model_dump_json() for config in configs(size).values()]
        assert len(set(dumped)) == len(dumped)


def test_shorter_trainings_keep_the_shape_of_their_schedule() -> None:
    found = configs("tiny")
    assert found["mp-72-percent"].schedule.iterations == 1080
    assert found["mp-half"].schedule.iterations == 750
    assert found["mp-half"].schedule.drops == found["mp-all-layers"].schedule.drops


def test_tables_share_trainings_and_seeds_come_one_after_the_other(tmp_path: Path) -> None:
    request = ReproductionOptions(["table7", "table1"], find_size("tiny"), [0, 1], tmp_path)
    keys = [trained.key for trained in request.trainings()]
    assert len(set(keys)) == len(keys) == 2 * 5  # the baseline is a row of both
    assert [key.endswith("seed-0") for key in keys] == [True] * 5 + [False] * 5
    assert all(trained.config.data.root == tmp_path / "data" for trained in request.trainings())


@pytest.mark.parametrize(
    ("words", "named"),
    [(["table2"], "table2"), ([], "nothing"), (["table1", "tabel5"], "tabel5")],
)
def test_an_unknown_table_is_named(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        required_trainings(words, SIZES["tiny"])


def test_all_is_every_target() -> None:
    every = {row.training for rows in TABLES.values() for row in rows}
    assert {one.name for one in required_trainings(["all"], SIZES["tiny"])} == every


@pytest.mark.parametrize("text", ["", "0,0", "a", "0;1", "-1"])
def test_bad_seeds(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)
    assert parse_seeds("0, 7") == [0, 7]


def test_an_unknown_size_is_named() -> None:
    with pytest.raises(ConfigError, match="--size big: choose from tiny, small, paper"):
        find_size("big")
