"""The paper's tables and figures from trainings of our own; no torch."""

from reports.reproduction.report import ReproductionContext, build, table_rows
from reports.reproduction.results import TrainedRun
from reports.reproduction.table_rows import TABLES
from reports.reproduction.training_log import logged_steps, seconds_per_step

__all__ = [
    "TABLES",
    "ReproductionContext",
    "TrainedRun",
    "build",
    "logged_steps",
    "seconds_per_step",
    "table_rows",
]
