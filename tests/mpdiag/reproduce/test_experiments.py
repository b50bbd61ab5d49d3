"""Trainings of the tables at each size."""

from pathlib import Path

import pytest

from mpdiag.config import TrainConfig
from mpdiag.errors import ConfigError
from mpdiag.reproduce import SIZES, ReproductionOptions, parse_seeds, select_size
from mpdiag.reproduce.experiments import TRAININGS, configure_training, required_trainings
from reports.reproduction import TABLES


def configs(size: str) -> dict[str, TrainConfig]:
    trainings = required_trainings(["all"], SIZES[size])
    return {one.name: configure_training(one, 0, SIZES[size], None).config for one in trainings}


def test_trainings_at_size_tiny_have_the_method_of_the_packaged_recipe() -> None:
    found = configs("tiny")
    assert len(found) == 14
    for name, training in TRAININGS.items():
        if name not in found or training.recipe is None:
            continue
        ours, theirs = found[name], configure_training(training, 0, SIZES["paper"], None).config
        assert ours.method == theirs.method, name
        assert ours.model.feature_maps == theirs.model.feature_maps, name
        if ours.method == "piloted":
            size = {"num_queries": theirs.pilot.num_queries}
            assert ours.pilot.model_copy(update=size) == theirs.pilot, name


def test_all_trainings_of_a_size_differ() -> None:
    for size in SIZES:
        dumped = [config.model_dump_json() for config in configs(size).values()]
        assert len(set(dumped)) == len(dumped)


def test_shorter_trainings_keep_their_milestones() -> None:
    found = configs("tiny")
    assert found["mp-72-percent"].schedule.iterations == 1080
    assert found["mp-half"].schedule.iterations == 750
    assert found["mp-half"].schedule.milestones == found["mp-all-layers"].schedule.milestones


def test_tables_share_trainings_and_seeds_run_in_order(tmp_path: Path) -> None:
    options = ReproductionOptions(["table7", "table1"], select_size("tiny"), [0, 1], tmp_path)
    names = [trained.name for trained in options.trainings()]
    assert len(set(names)) == len(names) == 2 * 5  # the baseline is a row of both
    assert [name.endswith("seed-0") for name in names] == [True] * 5 + [False] * 5
    assert all(trained.config.data.root == tmp_path / "data" for trained in options.trainings())


@pytest.mark.parametrize(
    ("words", "named"),
    [(["table2"], "table2"), ([], "no target"), (["table1", "tabel5"], "tabel5")],
)
def test_unknown_target(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        required_trainings(words, SIZES["tiny"])


def test_all_needs_the_trainings_of_every_target_of_the_paper() -> None:
    own = {
        "unmasked", "mp-unmasked", "mp-cell-noise", "mp-neighbour-noise",
        "mp-feature-mean", "mp-mask-code",
    }  # fmt: skip
    every = {row.training for rows in TABLES.values() for row in rows}
    assert {one.name for one in required_trainings(["all"], SIZES["tiny"])} == every - own
    others = required_trainings(["attention", "noise", "query-input"], SIZES["tiny"])
    assert {one.name for one in others} > own


def test_trainings_that_are_not_in_the_paper(tmp_path: Path) -> None:
    options = ReproductionOptions(
        ["attention", "noise", "query-input"], select_size("tiny"), [0], tmp_path
    )
    found = {one.spec.name: one.config for one in options.trainings()}
    for name, config in found.items():
        assert config.model.masked_attention == ("unmasked" not in name)
        assert config.method == ("baseline" if name in ("baseline", "unmasked") else "piloted")
    noises = {name: found[f"mp-{name}-noise"].pilot for name in ("cell", "neighbour", "point")}
    assert all(pilot.noise == name and pilot.layers == 3 for name, pilot in noises.items())
    inputs = [found[f"mp-{name}"].pilot for name in ("all-layers", "feature-mean", "mask-code")]
    assert [pilot.query_input for pilot in inputs] == [
        "attention-mask",
        "feature-mean",
        "mask-code",
    ]
    assert all(pilot.layers == "all" and pilot.noise == "point" for pilot in inputs)
    with pytest.raises(ConfigError, match="unmasked: has no recipe at --size paper"):
        ReproductionOptions(["attention"], select_size("paper"), [0], tmp_path).trainings()


def test_selected_trainings_run_in_the_given_order(tmp_path: Path) -> None:
    only = ["mp-all-layers", "baseline"]
    given = [*only, "baseline"]  # twice
    options = ReproductionOptions(["table4"], select_size("tiny"), [0, 1], tmp_path, only=given)
    assert [one.name for one in options.trainings()] == [
        f"{name}-seed-{seed}" for seed in (0, 1) for name in only
    ]


@pytest.mark.parametrize("text", ["", "0,0", "1,01", "a", "0;1", "-1", "9" * 5000])
def test_invalid_seeds(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)
    assert parse_seeds("0, 7") == [0, 7]


@pytest.mark.parametrize("word", ["pilot.layers=2", "method=baseline", "seed=3"])
def test_settings_in_which_the_trainings_differ_are_refused(word: str) -> None:
    """They would have no effect at size tiny, and make rows equal at size paper."""
    for size in ("tiny", "paper"):
        with pytest.raises(ConfigError, match=f"^{word}: the trainings of the tables differ in "):
            select_size(size, ["schedule.iterations=3", word])


def test_unknown_size() -> None:
    with pytest.raises(
        ConfigError,
        match="--size big: unknown size; choose from tiny, small, photos, photos-nuclei, paper",
    ):
        select_size("big")
