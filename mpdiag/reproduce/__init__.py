"""The paper's tables at a size that anyone can run: trainings, analyses, reports; resumable."""

from mpdiag.reproduce.experiments import SIZES, Size
from mpdiag.reproduce.run import ReproductionOptions, find_size, parse_seeds, reproduce

__all__ = ["SIZES", "ReproductionOptions", "Size", "find_size", "parse_seeds", "reproduce"]
