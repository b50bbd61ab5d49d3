"""Options of an analysis: validation, the command line, and the settings in run.json."""

import inspect
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.main import get_command

from mpdiag.analysis import AnalysisOptions, pipeline
from mpdiag.analysis.options import SavePolicy, parse_match_points
from mpdiag.analysis.settings import AnalysisSettings, ModelSettings
from mpdiag.cli import app
from mpdiag.commands import analyze as command
from mpdiag.config import LossConfig
from mpdiag.errors import ConfigError

INPUTS = {"checkpoint", "output", "dataset"}


def cli_parameters() -> dict[str, Any]:
    group: Any = get_command(app)
    return {parameter.name: parameter for parameter in group.commands["analyze"].params}


def test_command_line_has_every_option_with_its_default_and_help() -> None:
    parameters = cli_parameters()
    options = {field.name: field for field in fields(AnalysisOptions)}
    assert parameters.keys() == options.keys() | INPUTS
    for name, field in options.items():
        assert parameters[name].help == field.metadata["help"], name
        assert parameters[name].opts == [f"--{name.replace('_', '-')}"]
        default = parameters[name].default
        assert default == field.default or (default is None and field.default == ()), name
    signature, types = inspect.signature(command.analyze), get_type_hints(AnalysisOptions)
    others = {"intervene": list[str], "match_points": str | None}  # typer converts these
    for name in options:
        kind = get_args(signature.parameters[name].annotation)[0]
        assert kind == others.get(name, types[name]), name


def test_command_line_passes_every_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    received: dict[str, Any] = {}

    def prepare(*arguments: object, **given: object) -> SimpleNamespace:
        received.update(given)
        summary = {"layers": [], "num_images": 0, "num_gt": 0}
        return SimpleNamespace(write=lambda: summary, output=tmp_path, evaluate=False)

    monkeypatch.setattr(pipeline, "prepare_run", prepare)
    values = {
        "config": tmp_path / "config.yaml", "engine": "mpdiag", "root": tmp_path, "split": "train",
        "task": "panoptic", "limit": 3, "part": "matching", "save_masks": "all",
        "save_attention": True, "match_points": "all", "evaluate": False, "evaluate_layers": True,
        "intervene": ["attention=gt:1", "attention=none:2"], "device": "cpu",
        "resume": True,
    }  # fmt: skip
    arguments = ["user/model", "--output", str(tmp_path)]
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            arguments.append(flag if value else flag.replace("--", "--no-"))
        else:
            for one in value if isinstance(value, list) else [value]:
                arguments += [flag, str(one)]
    typer_app = typer.Typer()
    typer_app.command()(command.analyze)
    typer_app(arguments, standalone_mode=False)
    assert {name: received[name] for name in values} == values


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "--limit 0"),
        ({"part": "mp"}, "--part mp"),
        ({"engine": "torch"}, "--engine torch"),
        ({"save_masks": "worst:x"}, "--save-masks worst:x"),
        ({"save_masks": "none", "save_attention": True}, "--save-attention"),
        ({"pilot_layers": 2}, "--pilot-layers: works on the MP part only"),
        ({"part": "piloted", "save_attention": True}, "--save-attention"),
        ({"part": "piloted", "intervene": ("attention=gt:1",)}, "--intervene"),
        *[({"match_points": parse_match_points(x)}, "--match-points") for x in ("few", "0", "-3")],
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        AnalysisOptions(**options)


def test_unknown_option() -> None:
    with pytest.raises(TypeError, match="limits"):
        pipeline.analyze("model.pth", None, "run", limits=3)


def test_save_policy_and_match_points() -> None:
    assert SavePolicy.parse("worst:7").count == 7
    assert SavePolicy.parse("all").count is None
    assert SavePolicy.parse("none").count == 0
    assert parse_match_points("all") == "all"
    assert parse_match_points("300") == 300


def test_settings_keep_the_keys_of_run_json() -> None:
    model = ModelSettings.from_loss(LossConfig(), short_side=800, long_side=1333)
    settings = AnalysisSettings.derive(model, AnalysisOptions(limit=3)).as_json()
    assert settings == {
        "class_cost": 2.0, "mask_cost": 5.0, "dice_cost": 5.0, "match_points": 12544,
        "short_side": 800, "long_side": 1333, "limit": 3, "pilot_layers": None,
        "save_masks": "worst:50", "evaluate": True, "evaluate_layers": False,
        "inference": "mask2former", "intervene": (),
    }  # fmt: skip
    piloted = AnalysisOptions(part="piloted", evaluate_layers=True, match_points="all")
    settings = AnalysisSettings.derive(model, piloted).as_json()
    assert not settings["evaluate"] and not settings["evaluate_layers"]
    assert settings["match_points"] == "all"
    every_layer = AnalysisOptions(evaluate=False, evaluate_layers=True, save_attention=True)
    settings = AnalysisSettings.derive(model, every_layer).as_json()
    assert settings["evaluate"] and settings["save_attention"]
