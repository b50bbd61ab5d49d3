"""`mpdiag train`."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from mpdiag import torchrun
from mpdiag.commands.options import err, exit_on_signal, out, suggest
from mpdiag.errors import ConfigError
from mpdiag.extras import require

_DETECTRON2 = "With --engine detectron2"


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Recipe name, or YAML file of mpdiag or detectron2.", show_default=False
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Settings to override; after a detectron2 YAML also KEY VALUE pairs.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Output directory; default: runs/RECIPE.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume a stopped run.")] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="List the recipes and the paper's results, and exit.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings as YAML, and exit.")
    ] = False,
    config_file: Annotated[
        Path | None, typer.Option(help="YAML file instead of RECIPE, as in detectron2's tools.")
    ] = None,
    engine: Annotated[
        Literal["mpdiag", "detectron2"],
        typer.Option(help="Trainer to use; detectron2 must be installed."),
    ] = "mpdiag",
    num_gpus: Annotated[
        int, typer.Option(help="Processes per machine.", min=1, rich_help_panel=_DETECTRON2)
    ] = 1,
    num_machines: Annotated[int, typer.Option(min=1, rich_help_panel=_DETECTRON2)] = 1,
    machine_rank: Annotated[int, typer.Option(min=0, rich_help_panel=_DETECTRON2)] = 0,
    dist_url: Annotated[
        str,
        typer.Option(help="URL for initializing torch.distributed.", rich_help_panel=_DETECTRON2),
    ] = "auto",
    eval_only: Annotated[
        bool,
        typer.Option(
            "--eval-only", help="Evaluate MODEL.WEIGHTS, and exit.", rich_help_panel=_DETECTRON2
        ),
    ] = False,
) -> None:
    """Train a recipe, e.g. `mpdiag train synthetic-tiny method=piloted --output runs/piloted`."""
    from trainers.recipe import read_recipe, recipe_text, recipes

    if listing:
        from reports.recipes import WIDTH, recipe_table

        out.print(recipe_table(recipes()), width=max(out.width, WIDTH), crop=False)
        return
    settings = overrides or []
    if config_file is not None:
        recipe, settings = str(config_file), [*([recipe] if recipe else []), *settings]
    if recipe is None:
        raise ConfigError("RECIPE is missing; give a YAML file or a name of mpdiag train --list")
    unknown = [word for word in settings if word.startswith("--")]
    if unknown:
        raise ConfigError(f"{unknown[0]}: no such option; see mpdiag train --help")
    launch = (num_gpus, num_machines, machine_rank, dist_url)
    if engine == "mpdiag" and (launch != (1, 1, 0, "auto") or eval_only):
        raise ConfigError(
            "--num-gpus, --num-machines, --machine-rank, --dist-url and --eval-only need --engine "
            "detectron2; use torchrun to start several processes, and mpdiag analyze to evaluate"
        )
    if engine == "detectron2" and not dry_run:
        path = _train_detectron2(Path(recipe), settings, output, resume, eval_only, launch)
        _show(path)
        return
    found = read_recipe(recipe, settings)
    if dry_run:
        out.print(recipe_text(found).rstrip(), soft_wrap=True, markup=False, highlight=False)
        return
    if found.translation and torchrun.rank() == 0:
        err.print(recipe_text(found).rstrip(), soft_wrap=True, markup=False, highlight=False)
    from trainers.loop import train as run

    with exit_on_signal():
        path = run(
            found.config, output or Path("runs") / Path(recipe).stem, resume=resume, console=err
        )
    if torchrun.rank() == 0:
        _show(path)


def _show(path: Path) -> None:
    out.print(f"[bold]{escape(str(path))}[/]", soft_wrap=True)
    suggest(f"mpdiag analyze {shlex.quote(str(path))}")


def _train_detectron2(
    file: Path,
    settings: list[str],
    output: Path | None,
    resume: bool,
    eval_only: bool,
    launch: tuple[int, int, int, str],
) -> Path:
    try:
        from trainers.detectron2 import LaunchOptions, run
    except ModuleNotFoundError:
        require("detectron2", "--engine detectron2")
        raise
    return run(
        file,
        settings,
        output=output,
        resume=resume,
        eval_only=eval_only,
        launch_options=LaunchOptions(*launch),
    )
