"""`mpdiag demo`: the main job, once through, on the embedded data."""

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mpdiag.analysis import analyze
from mpdiag.checkpoints import load_checkpoint
from mpdiag.data import generate
from mpdiag.errors import RunError
from mpdiag.progress import progress_bar
from reports import write_report
from reports.table1 import print_table
from trainers.loop import train
from trainers.recipe import load_recipe

TRAINED = {"baseline": "baseline", "multi-layer-mp": "piloted-all-layers"}
ANALYSED = (
    ("baseline", "matching", "baseline"),
    ("multi-layer-mp", "matching", "multi-layer-mp"),
    ("multi-layer-mp", "piloted", "multi-layer-mp-piloted-part"),
)


def run_demo(output: Path, console: Console, *, quick: bool = False) -> None:
    """Generate data, train baseline and multi-layer MP, analyse, report, and print Table 1.

    Args:
        output: where data, training directories, runs and report go; must not exist or be empty.
        console: where it says what it does.
        quick: a few steps of each on a small data set, to see that all parts work together.

    Raises:
        RunError: `output` holds files already.
    """
    if output.exists() and (output.is_file() or any(output.iterdir())):
        raise RunError(f"{output} holds files already; give an empty directory with --output")
    images = {"train": 64, "val": 8} if quick else {"train": 6000, "val": 300}
    steps = ["schedule.iterations=6", "schedule.warmup=2"] if quick else ["schedule.iterations=450"]
    since = time.perf_counter()

    def say(text: str) -> None:
        minutes, seconds = divmod(int(time.perf_counter() - since), 60)
        console.print(f"[dim]{minutes}:{seconds:02d}[/] {text}", soft_wrap=True)

    say(f"Generating {sum(images.values()):,} synthetic images")
    with progress_bar(console, "generating") as progress:
        generate(output / "data" / "synthetic", progress=progress, **images)
    for name, method in TRAINED.items():
        say(f"Training {name}: recipe synthetic-tiny, method={method}")
        changes = [f"method={method}", f"data.root={output / 'data'}", *steps]
        train(load_recipe("synthetic-tiny", changes), output / "train" / name, console=console)
    runs = []
    for trained, part, name in ANALYSED:
        say(f"Analysing {trained}, {part} part, on the validation images")
        runs.append(output / "runs" / name)
        loaded = load_checkpoint(output / "train" / trained)
        with progress_bar(console, name) as progress:
            analyze(
                loaded,
                "synthetic",
                runs[-1],
                root=output / "data",
                part="piloted" if part == "piloted" else "matching",
                progress=progress,
            )
    say("Writing the report")
    files = write_report(runs, output / "report")
    console.print(print_table(runs))
    say("Done")
    for file in files:
        console.print(f"  {escape(str(file))}", soft_wrap=True)
    command = " ".join(["mpdiag dashboard", *map(str, runs)])
    console.print(f"Look at it layer by layer:\n  [bold]{escape(command)}[/]", soft_wrap=True)
