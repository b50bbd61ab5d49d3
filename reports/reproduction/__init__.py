"""The paper's tables and figures from trainings of our own; no torch."""

from reports.reproduction.build import Made, build, rows_of
from reports.reproduction.results import TrainedRun
from reports.reproduction.rows import TABLES
from reports.reproduction.training_log import logged_steps, seconds_a_step

__all__ = ["TABLES", "Made", "TrainedRun", "build", "logged_steps", "rows_of", "seconds_a_step"]
