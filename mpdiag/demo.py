"""`mpdiag demo`: the main job, once through, on the embedded data."""

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mpdiag.analysis import Part, analyze
from mpdiag.data import generate
from mpdiag.progress import progress_bar
from reports import write_report
from reports.table1 import print_table
from trainers.loop import train
from trainers.recipe import load_recipe

TRAINED = {"baseline": "baseline", "multi-layer-mp": "piloted"}
ANALYSED: tuple[tuple[str, Part, str], ...] = (
    ("baseline", "matching", "baseline"),
    ("multi-layer-mp", "matching", "multi-layer-mp"),
    ("multi-layer-mp", "piloted", "multi-layer-mp-piloted"),
)


def run_demo(output: Path, console: Console, *, quick: bool = False) -> None:
    """Generate data, train baseline and multi-layer MP, analyse, report, and print Table 1.

    What is finished in `output` already is not done again, so a stopped demo goes on.

    Args:
        output: where data, training directories, runs and report go.
        console: where it says what it does.
        quick: a few steps of each on a small data set, to see that all parts work together.

    Raises:
        MpdiagError: `output` holds something else.
    """
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
        directory = output / "train" / name
        if (directory / "model_final.pth").is_file():
            say(f"{name} is trained already")
            continue
        say(f"Training {name}: recipe synthetic-tiny, method={method}")
        changes = [
            f"method={method}",
            f"data.root={output / 'data'}",
            "evaluate_every=null",
            *steps,
        ]
        train(load_recipe("synthetic-tiny", changes), directory, resume=True, console=console)
    runs = [output / "runs" / name for _, _, name in ANALYSED]
    for run, (trained, part, name) in zip(runs, ANALYSED, strict=True):
        if (run / "summary.json").is_file():
            say(f"{name} is analysed already")
            continue
        say(f"Analysing {trained}, {part} part, on the validation images")
        with progress_bar(console, name) as progress:
            analyze(
                output / "train" / trained,
                "synthetic",
                run,
                root=output / "data",
                part=part,
                resume=True,
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
