"""Configuration: overrides, merging, and error messages."""

from pathlib import Path

import pytest

from mpdiag.config import TrainConfig, merge, parse, parse_overrides, read_yaml
from mpdiag.errors import ConfigError
from trainers.methods import FullTrainConfig


def test_overrides_nest_and_read_values() -> None:
    found = parse_overrides(["a.b=1", "a.c=[1, 2]", "d=null", "e=x=y"])
    assert found == {"a": {"b": 1, "c": [1, 2]}, "d": None, "e": "x=y"}


def test_merge_keeps_other_keys() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}}) == {
        "a": {"b": 5, "c": 2},
        "d": 3,
    }


@pytest.mark.parametrize(
    "values, message",
    [
        ({"model": {"quries": 3}}, "recipe: unknown key 'model.quries'; known keys: num_classes"),
        ({"sead": 3}, "unknown key 'sead'; known keys: model, data"),
        ({"schedule": {"iterations": "many"}}, "schedule.iterations = 'many'"),
        ({"pilot": {"noise_ratio": 2}}, "pilot.noise_ratio = 2"),
        ({"data": {"task": "boxes"}}, "data.task = 'boxes'"),
        ({"pilot": {"layers": 0}}, "pilot.layers = 0: "),
        ({"loss": {"num_points": "none"}}, "loss.num_points = 'none': "),
        ({"schedule": {"milestones": [0.5, "x"]}}, "schedule.milestones.1 = 'x': "),
        ({"data": {"short_side": 900, "long_side": 800}}, "short_side may not exceed long_side"),
        ({"data": {"augment": {"scale_jitter": [2, 0.1], "crop": [9, 9]}}}, "two factors above 0"),
        ({"data": {"augment": {"scale_jitter": [0.1, 2]}}}, "data.augment = {"),
        ({"data": {"augment": {"short_sides": [80, 1334]}}}, "none of short_sides may exceed"),
        ({"data": {"augment": {"short_sides": [0]}}}, "data.augment.short_sides.0 = 0"),
        ({"data": {"augment": {"crop": [0, 9]}}}, "data.augment.crop.0 = 0"),
    ],
)
def test_errors_name_the_key(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(FullTrainConfig, values, "recipe")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides_without_value_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_overrides(["warmup"])
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ConfigError, match="not a readable YAML"):
        read_yaml(broken)
    broken.write_text("- a")
    with pytest.raises(ConfigError, match="mapping"):
        read_yaml(broken)


def test_settings_round_trip() -> None:
    config = parse(TrainConfig, {"model": {"num_queries": 7}, "seed": 3}, "recipe")
    again = parse(TrainConfig, config.model_dump(mode="json"), "checkpoint")
    assert again == config


def test_sections_of_methods_are_kept_and_checked_by_the_trainers() -> None:
    values = {"auxiliary_loss": {"weight": 2.5}}
    assert (
        parse(TrainConfig, values, "checkpoint").model_dump()["auxiliary_loss"]
        == values["auxiliary_loss"]
    )
    assert parse(FullTrainConfig, values, "recipe").auxiliary_loss.weight == 2.5
    with pytest.raises(ConfigError, match=r"auxiliary_loss\.weight = -1"):
        parse(FullTrainConfig, {"auxiliary_loss": {"weight": -1}}, "recipe")
