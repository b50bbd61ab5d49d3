"""From what a reproduction has trained to its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpdiag.data import load_dataset
from mpdiag.reproduce.directory import PARTS, ReproductionDirectory, read_json
from mpdiag.reproduce.experiments import SeededTraining
from mpdiag.reproduce.measurements import model_costs, noise_overlap
from mpdiag.store import Run
from mpdiag.store.files import replace_json
from reports.document import write_document
from reports.reproduction import TABLES, ReproductionContext, TrainedRun, build


def trained_runs(
    trainings: Sequence[SeededTraining], layout: ReproductionDirectory
) -> list[TrainedRun]:
    """Where the trainings and their runs are, for the report."""
    return [
        TrainedRun(
            one.training.name,
            one.seed,
            layout.training(one.key),
            {part: layout.run(one.key, part) for part in PARTS[: 2 if one.piloted else 1]},
            one.config.schedule.iterations,
        )
        for one in trainings
    ]


def costs(trainings: Sequence[SeededTraining], layout: ReproductionDirectory) -> dict[str, Any]:
    """What the models of Table 7 cost, by training, at the size of the first analysed image.

    All are measured one after the other, so that their speeds can be compared; once.
    """
    names = [row.training for row in TABLES["table7"]]
    firsts: dict[str, SeededTraining] = {}
    for one in trainings:
        if one.training.name in names and all(step.finished for step in layout.steps(one)):
            firsts.setdefault(one.training.name, one)
    path = layout.root / "measured" / "costs.json"
    held = read_json(path)
    if held.keys() >= firsts.keys():
        return held
    run = Run.open(layout.run(next(iter(firsts.values())).key, PARTS[0]))
    shown = run.query(
        "SELECT input_height, input_width FROM images ORDER BY image_id LIMIT 1"
    ).iloc[0]
    directories = {name: layout.training(one.key) for name, one in firsts.items()}
    found = model_costs(directories, int(shown["input_height"]), int(shown["input_width"]))
    path.parent.mkdir(exist_ok=True)
    replace_json(path, found)
    return found


def noise(trained: SeededTraining, layout: ReproductionDirectory) -> dict[str, Any]:
    """IoU of noised masks of a training's validation images; once."""
    path = layout.root / "measured" / "noise.json"
    held = read_json(path)
    if held:
        return held
    config = trained.config.data
    data = load_dataset(config.dataset, root=config.root, split=config.val_split, task=config.task)
    found = noise_overlap(data, config.short_side, config.long_side)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_json(path, found)
    return found


def write_reports(
    made: ReproductionContext, trainings: Sequence[SeededTraining], layout: ReproductionDirectory
) -> list[Path]:
    """The report of these trainings in all formats."""
    return write_document(build(trained_runs(trainings, layout), made), layout.root / "reports")
