"""`mpdiag train`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mpdiag.commands.options import err, out, stoppable
from mpdiag.errors import ConfigError


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name, or a YAML file.", show_default=False)
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Directory of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="Show the recipes and the paper's results, and stop.")
    ] = False,
) -> None:
    """Train a recipe, as `mpdiag train synthetic-tiny method=piloted --output runs/piloted`."""
    from trainers.recipe import load_recipe, recipes

    if listing:
        from reports.recipes import WIDTH, recipe_table

        out.print(recipe_table(recipes()), width=max(out.width, WIDTH), crop=False)
        return
    if recipe is None:
        raise ConfigError(
            "which recipe? give a name that mpdiag train --list shows, or a YAML file"
        )
    from trainers.loop import train as run

    config = load_recipe(recipe, changes or [])
    with stoppable():
        path = run(config, output or Path("runs") / Path(recipe).stem, resume=resume, console=err)
    out.print(f"[bold]{escape(str(path))}[/]", soft_wrap=True)
