"""Metrics of runs for resampled images, for the intervals of differences between trainings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mpdiag.analysis.run_evaluation import resample_ap
from mpdiag.config import DataSource
from mpdiag.data import SegmentationDataset, load_held_out
from mpdiag.reproduce.directory import PARTS, ReproductionDirectory, read_json
from mpdiag.reproduce.experiments import SeededTraining
from mpdiag.reproduce.measured import ResampledRun, read_measured
from mpdiag.store import Run
from mpdiag.store.bootstrap import RESAMPLES, draw_images, ratio
from mpdiag.store.files import replace_json
from reports.reproduction import RESAMPLED_METRICS, ResampledRuns


def resample_runs(
    trainings: Sequence[SeededTraining], directory: ReproductionDirectory
) -> ResampledRuns:
    """Return the metrics of all finished runs for the same samples of images.

    The values of a run are kept in DIR/measured/resampled/, and computed again if another run has
    its name or if `RESAMPLED_METRICS` change.
    """
    datasets: dict[DataSource, SegmentationDataset] = {}
    found: dict[tuple[str, int, str], Mapping[str, list[float | None]]] = {}
    for training in trainings:
        for job in directory.jobs(training):
            if job.is_training or not job.finished:
                continue
            part = next(part for part in PARTS if job.name.endswith(part))
            path = directory.root / "measured" / "resampled" / f"{job.name}.json"
            origin = _origin(job.output)
            kept = read_measured(path, ResampledRun)
            values = kept.get("values") if kept.get("origin") == origin else None
            if values is None:
                config = training.config.data
                if config.held_out not in datasets:
                    datasets[config.held_out] = load_held_out(config)
                data = datasets[config.held_out] if part == PARTS[0] else None
                values = _resample(job.output, data)
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_json(path, {"origin": origin, "values": values})
            found[training.spec.name, training.seed, part] = values
    return found


def _origin(path: Path) -> dict[str, Any]:
    """Return what identifies a run and the metrics that are computed from it."""
    header = read_json(path / "run.json")
    return {
        "checkpoint": header.get("checkpoint"),
        "created": header.get("created"),
        "metrics": [metric.name for metric in RESAMPLED_METRICS],
    }


def _resample(
    path: Path, data: SegmentationDataset | None, resamples: int = RESAMPLES
) -> dict[str, list[float | None]]:
    """Return the value of each metric for each sample; AP only with the data set."""
    terms = Run.open(path).image_terms()
    draws = np.concatenate(list(draw_images(len(terms["util"][0]), resamples)))
    layers = {name: ratio(draws, *terms[name]) for name in ("util", "miou_l")}
    values: dict[str, list[float | None]] = {}
    column: npt.NDArray[np.float64] | None
    for metric in RESAMPLED_METRICS:
        if metric.key == "ap":
            column = None if data is None else resample_ap(path, data, draws)
        elif metric.layer is not None:
            of_layers = layers[metric.key]
            column = of_layers[:, metric.layer] if metric.layer < of_layers.shape[1] else None
        else:
            chosen = slice(1, -1) if metric.key == "util" else slice(1, None)
            column = np.nanmean(layers[metric.key][:, chosen], axis=1)
        if column is not None:
            values[metric.name] = [None if np.isnan(x) else float(x) for x in column]
    return values
