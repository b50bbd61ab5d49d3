"""`mpdiag demo`: train, analyse and report once on synthetic data."""

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mpdiag.analysis import analyze
from mpdiag.choices import Part
from mpdiag.data import generate_synthetic
from mpdiag.progress import progress_bar
from reports import write_report
from reports.table1 import terminal_table
from trainers.loop import train
from trainers.recipe import load_recipe

METHODS = {"baseline": "baseline", "multi-layer-mp": "piloted"}
ANALYSES: tuple[tuple[str, Part, str], ...] = (
    ("baseline", "matching", "baseline"),
    ("multi-layer-mp", "matching", "multi-layer-mp"),
    ("multi-layer-mp", "piloted", "multi-layer-mp-piloted"),
)


def run_demo(output: Path, console: Console, *, quick: bool = False) -> None:
    """Generate data, train baseline and multi-layer MP, analyse both, and print Table 1.

    Steps whose output exists are skipped, so an interrupted demo continues.

    Args:
        output: directory for data, trainings, runs and the report.
        console: console for progress messages.
        quick: run a few steps of each on a small data set, as a smoke test.

    Raises:
        MpdiagError: `output` contains other files.
    """
    images = {"train": 64, "val": 8} if quick else {"train": 6000, "val": 300}
    steps = (
        ["schedule.iterations=6", "schedule.warmup_iterations=2"]
        if quick
        else ["schedule.iterations=450"]
    )
    start = time.perf_counter()

    def log(text: str) -> None:
        minutes, seconds = divmod(int(time.perf_counter() - start), 60)
        console.print(f"[dim]{minutes}:{seconds:02d}[/] {text}", soft_wrap=True)

    log(f"Generating {sum(images.values()):,} synthetic images")
    with progress_bar(console, "generating") as progress:
        generate_synthetic(output / "data" / "synthetic", progress=progress, **images)
    for name, method in METHODS.items():
        directory = output / "train" / name
        if (directory / "model_final.pth").is_file():
            log(f"{name} is already trained")
            continue
        log(f"Training {name}: recipe synthetic-tiny, method={method}")
        changes = [
            f"method={method}",
            f"data.root={output / 'data'}",
            "evaluate_every=null",
            *steps,
        ]
        train(load_recipe("synthetic-tiny", changes), directory, resume=True, console=console)
    runs = [output / "runs" / name for _, _, name in ANALYSES]
    for run, (trained, part, name) in zip(runs, ANALYSES, strict=True):
        if (run / "summary.json").is_file():
            log(f"{name} is already analysed")
            continue
        log(f"Analysing {trained}, {part} part, on the validation images")
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
    log("Writing the report")
    files = write_report(runs, output / "report")
    console.print(terminal_table(runs))
    log("Done. Report:")
    for file in files:
        console.print(f"  {escape(str(file))}", soft_wrap=True)
    command = " ".join(["mpdiag dashboard", *map(str, runs)])
    console.print(
        f"Open the dashboard to inspect each layer:\n  [bold]{escape(command)}[/]", soft_wrap=True
    )
