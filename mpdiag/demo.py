"""`mpdiag demo`: analyse two small models on synthetic data and write a report."""

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mpdiag.analysis import analyze
from mpdiag.choices import Part
from mpdiag.data import generate_synthetic
from mpdiag.progress import progress_bar
from reports import write_report
from reports.table1 import terminal_table
from trainers.initialization import WEIGHTS

METHODS = {"baseline": "baseline", "multi-layer-mp": "piloted"}
ANALYSES: tuple[tuple[str, Part, str], ...] = (
    ("baseline", "matching", "baseline"),
    ("multi-layer-mp", "matching", "multi-layer-mp"),
    ("multi-layer-mp", "piloted", "multi-layer-mp-piloted"),
)
QUICK_IMAGES = 24


def run_demo(
    output: Path,
    console: Console,
    *,
    train_images: int = 6000,
    val_images: int = 300,
    iterations: int = 450,
) -> None:
    """Generate data, train baseline and multi-layer MP, analyse both, and print Table 1.

    Steps whose output exists are skipped, so an interrupted demo continues.

    Args:
        output: directory for data, trainings, runs and the report.
        console: console for progress messages.
        train_images: number of synthetic training images.
        val_images: number of synthetic validation images.
        iterations: number of training steps of each model.

    Raises:
        MpdiagError: `output` contains other files.
    """
    # Imported here because `demo --quick` runs without the extra `train`.
    from trainers.loop import train
    from trainers.recipe import load_recipe

    steps = _Steps(
        console,
        "about 5 minutes on two idle CPU cores",
        [
            f"generate {train_images + val_images:,} synthetic images",
            *(f"train {name}: {iterations} steps" for name in METHODS),
            *_analysis_steps(),
            "write the report",
        ],
    )
    steps.next()
    with progress_bar(console, "generating") as progress:
        generate_synthetic(
            output / "data" / "synthetic", train=train_images, val=val_images, progress=progress
        )
    for name, method in METHODS.items():
        steps.next()
        directory = output / "train" / name
        if (directory / "model_final.pth").is_file():
            console.print(f"{name} is already trained")
            continue
        changes = [
            f"method={method}",
            f"data.root={output / 'data'}",
            "evaluate_every=null",
            f"schedule.iterations={iterations}",
            f"schedule.warmup_iterations={min(100, iterations // 3)}",
        ]
        train(load_recipe("synthetic-tiny", changes), directory, resume=True, console=console)
    _analyse_and_report({name: output / "train" / name for name in METHODS}, output, steps)


def run_quick_demo(output: Path, console: Console) -> None:
    """Analyse the two packaged models on a few synthetic images and print Table 1; no training.

    Args:
        output: directory for data, runs and the report.
        console: console for progress messages.

    Raises:
        MpdiagError: `output` contains other files.
    """
    steps = _Steps(
        console,
        "about 20 seconds on two idle CPU cores",
        [f"generate {QUICK_IMAGES} synthetic images", *_analysis_steps(), "write the report"],
    )
    steps.next()
    generate_synthetic(output / "data" / "synthetic", train=1, val=QUICK_IMAGES)
    _analyse_and_report({name: WEIGHTS / f"demo-{name}.pth" for name in METHODS}, output, steps)


class _Steps:
    """The plan of a demo, printed at the start, and the step that runs."""

    def __init__(self, console: Console, duration: str, plan: Sequence[str]) -> None:
        self.console = console
        self._plan = plan
        self._done = 0
        self._start = time.perf_counter()
        console.print(f"[bold]Plan[/] ({duration}):")
        for number, text in enumerate(plan, 1):
            console.print(f"  {number}. {text}", highlight=False)

    def next(self) -> None:
        """Print the time and the name of the next step."""
        minutes, seconds = divmod(int(time.perf_counter() - self._start), 60)
        text = self._plan[self._done]
        self._done += 1
        self.console.print(
            f"[dim]{minutes}:{seconds:02d}[/] [bold]{self._done}/{len(self._plan)}[/] {text}",
            soft_wrap=True,
            highlight=False,
        )


def _analysis_steps() -> list[str]:
    return [f"analyse {trained}, {part} part" for trained, part, _ in ANALYSES]


def _analyse_and_report(checkpoints: Mapping[str, Path], output: Path, steps: _Steps) -> None:
    console = steps.console
    runs = [output / "runs" / name for _, _, name in ANALYSES]
    for run, (trained, part, name) in zip(runs, ANALYSES, strict=True):
        steps.next()
        if (run / "summary.json").is_file():
            console.print(f"{name} is already analysed")
            continue
        with progress_bar(console, name) as progress:
            analyze(
                checkpoints[trained],
                "synthetic",
                run,
                root=output / "data",
                part=part,
                resume=True,
                progress=progress,
            )
    steps.next()
    files = write_report(runs, output / "report")
    console.print(terminal_table(runs))
    console.print("Report:")
    for file in files:
        console.print(f"  {escape(str(file))}", soft_wrap=True)
    command = shlex.join(["mpdiag", "dashboard", *map(str, runs)])
    console.print(f"Next: [bold]{escape(command)}[/]", soft_wrap=True)
