"""`mpdiag train`."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mpdiag.commands.options import err, out, stoppable
from mpdiag.errors import ConfigError


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
) -> None:
    """Train a recipe, as `mpdiag train synthetic-tiny method=piloted --output runs/piloted`."""
    from trainers.recipe import read_recipe, recipe_text, recipes

    if listing:
        from reports.recipes import WIDTH, recipe_table

        out.print(recipe_table(recipes()), width=max(out.width, WIDTH), crop=False)
        return
    if recipe is None:
        raise ConfigError(
            "which recipe? give a name that mpdiag train --list shows, or a YAML file"
        )
    mistaken = [word for word in changes or [] if word.startswith("--")]
    if mistaken:
        raise ConfigError(f"there is no option {mistaken[0]}; see mpdiag train --help")
    found = read_recipe(recipe, changes or [])
    if dry_run:
        out.print(recipe_text(found).rstrip(), soft_wrap=True, markup=False, highlight=False)
        return
    if found.translated and os.environ.get("RANK", "0") == "0":  # once under torchrun
        err.print(recipe_text(found).rstrip(), soft_wrap=True, markup=False, highlight=False)
    from trainers.loop import train as run

    with stoppable():
        path = run(
            found.config, output or Path("runs") / Path(recipe).stem, resume=resume, console=err
        )
    out.print(f"[bold]{escape(str(path))}[/]", soft_wrap=True)
