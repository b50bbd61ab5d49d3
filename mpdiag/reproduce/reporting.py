"""Measurements besides the runs, and the report of a reproduction."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpdiag.data import load_held_out
from mpdiag.reproduce.directory import PARTS, ReproductionDirectory
from mpdiag.reproduce.experiments import SeededTraining
from mpdiag.reproduce.measured import ModelCosts, NoiseOverlap, read_measured
from mpdiag.reproduce.measurements import model_costs, noise_overlap
from mpdiag.store import Run
from mpdiag.store.files import replace_json
from reports.document import write_document
from reports.reproduction import (
    TABLES,
    ReproductionContext,
    TrainedRun,
    build_reproduction_report,
)


def measure_costs(
    trainings: Sequence[SeededTraining], directory: ReproductionDirectory
) -> dict[str, Any]:
    """Return the costs of the models of Table 7 by training, measured once.

    All models are measured in one go, at the size of the first analysed image, so that their
    speeds are comparable.
    """
    names = [row.training for row in TABLES["table7"]]
    finished: dict[str, SeededTraining] = {}
    for training in trainings:
        if training.spec.name in names and all(job.finished for job in directory.jobs(training)):
            finished.setdefault(training.spec.name, training)
    path = directory.root / "measured" / "costs.json"
    known = read_measured(path, ModelCosts)
    if known.keys() >= finished.keys():
        return known
    run = Run.open(directory.run(next(iter(finished.values())).name, PARTS[0]))
    first = "SELECT input_height, input_width FROM images ORDER BY image_id LIMIT 1"
    height, width = run.query(first).iloc[0].tolist()
    checkpoints = {name: directory.training(one.name) for name, one in finished.items()}
    costs = model_costs(checkpoints, int(height), int(width))
    path.parent.mkdir(exist_ok=True)
    replace_json(path, costs)
    return costs


def measure_noise(training: SeededTraining, directory: ReproductionDirectory) -> dict[str, Any]:
    """Return the IoU of noised masks of a training's validation images, measured once."""
    path = directory.root / "measured" / "noise.json"
    known = read_measured(path, NoiseOverlap)
    if known:
        return known
    config = training.config.data
    overlap = noise_overlap(load_held_out(config), config.short_side, config.long_side)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_json(path, overlap)
    return overlap


def write_reproduction_report(
    context: ReproductionContext,
    trainings: Sequence[SeededTraining],
    directory: ReproductionDirectory,
) -> list[Path]:
    """Write the report of these trainings in all formats, and return its files."""
    trained = [
        TrainedRun(
            training.spec.name,
            training.seed,
            directory.training(training.name),
            directory.runs(training),
            training.config.schedule.iterations,
        )
        for training in trainings
    ]
    document = build_reproduction_report(trained, context)
    return write_document(document, directory.root / "reports")
