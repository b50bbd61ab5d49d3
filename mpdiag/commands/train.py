"""`mpdiag train`."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from mpdiag.commands.options import err, out, exit_on_signal
from mpdiag.errors import ConfigError, DependencyError

_THERE = "With --engine detectron2"


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A recipe's name, or a YAML file, ours or detectron2's.", show_default=False
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Settings to change; after a detectron2 YAML its KEY VALUE pairs, too.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Directory of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="Show the recipes and the paper's results, and stop.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show all settings as a YAML file, and stop.")
    ] = False,
    config_file: Annotated[
        Path | None, typer.Option(help="A YAML file in place of RECIPE, as detectron2's tools.")
    ] = None,
    engine: Annotated[
        Literal["mpdiag", "detectron2"], typer.Option(help="Whose trainer runs; detectron2 needs to be installed.")
    ] = "mpdiag",
    num_gpus: Annotated[
        int, typer.Option(help="Processes of a machine.", min=1, rich_help_panel=_THERE)
    ] = 1,
    num_machines: Annotated[int, typer.Option(min=1, rich_help_panel=_THERE)] = 1,
    machine_rank: Annotated[int, typer.Option(min=0, rich_help_panel=_THERE)] = 0,
    dist_url: Annotated[
        str, typer.Option(help="Where machines meet.", rich_help_panel=_THERE)
    ] = "auto",
    eval_only: Annotated[
        bool,
        typer.Option(
            "--eval-only", help="Evaluate MODEL.WEIGHTS, and stop.", rich_help_panel=_THERE
        ),
    ] = False,
) -> None:
    """Train a recipe, as `mpdiag train synthetic-tiny method=piloted --output runs/piloted`."""
    from trainers.recipe import read_recipe, recipe_text, recipes

    if listing:
        from reports.recipes import WIDTH, recipe_table

        out.print(recipe_table(recipes()), width=max(out.width, WIDTH), crop=False)
        return
    words = changes or []
    if config_file is not None:
        recipe, words = str(config_file), [*([recipe] if recipe else []), *words]
    if recipe is None:
        raise ConfigError(
            "which recipe? give a name that mpdiag train --list shows, or a YAML file"
        )
    mistaken = [word for word in words if word.startswith("--")]
    if mistaken:
        raise ConfigError(f"there is no option {mistaken[0]}; see mpdiag train --help")
    there = (num_gpus, num_machines, machine_rank, dist_url)
    if engine == "mpdiag" and (there != (1, 1, 0, "auto") or eval_only):
        raise ConfigError(
            "processes and --eval-only are options of --engine detectron2; our own engine is "
            "started by torchrun, and mpdiag analyze evaluates"
        )
    if engine == "detectron2" and not dry_run:
        path = _train_there(Path(recipe), words, output, resume, eval_only, there)
        out.print(f"[bold]{escape(str(path))}[/]", soft_wrap=True)
        return
    found = read_recipe(recipe, words)
    if dry_run:
        out.print(recipe_text(found).rstrip(), soft_wrap=True, markup=False, highlight=False)
        return
    if found.translation and os.environ.get("RANK", "0") == "0":  # once under torchrun
        err.print(recipe_text(found).rstrip(), soft_wrap=True, markup=False, highlight=False)
    from trainers.loop import train as run

    with exit_on_signal():
        path = run(
            found.config, output or Path("runs") / Path(recipe).stem, resume=resume, console=err
        )
    out.print(f"[bold]{escape(str(path))}[/]", soft_wrap=True)


def _train_there(
    file: Path,
    words: list[str],
    output: Path | None,
    resume: bool,
    eval_only: bool,
    machines: tuple[int, int, int, str],
) -> Path:
    try:
        from trainers.detectron2 import LaunchOptions, run
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"--engine detectron2 needs detectron2 ({error}); docs/detectron2.md says how to "
            "install it"
        ) from None
    return run(
        file,
        words,
        output=output,
        resume=resume,
        eval_only=eval_only,
        machines=LaunchOptions(*machines),
    )
