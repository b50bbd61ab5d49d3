"""The paper's tables and figures from trainings with `mpdiag reproduce`; no torch."""

from reports.reproduction.hypotheses import RESAMPLED_METRICS
from reports.reproduction.image_intervals import ResampledRuns
from reports.reproduction.report import ReproductionContext, build_reproduction_report, table_rows
from reports.reproduction.results import TrainedRun
from reports.reproduction.table_rows import OTHER_TARGETS, TABLES
from reports.reproduction.training_log import logged_steps, seconds_per_step

__all__ = [
    "OTHER_TARGETS",
    "RESAMPLED_METRICS",
    "TABLES",
    "ReproductionContext",
    "ResampledRuns",
    "TrainedRun",
    "build_reproduction_report",
    "logged_steps",
    "seconds_per_step",
    "table_rows",
]
