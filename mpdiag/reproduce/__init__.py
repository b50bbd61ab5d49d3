"""Reproduce the paper's tables: train what is missing, analyse, and write the report."""

from mpdiag.reproduce.experiments import SIZES, ReproductionSize, select_size
from mpdiag.reproduce.run import ReproductionOptions, parse_seeds, reproduce

__all__ = [
    "SIZES",
    "ReproductionOptions",
    "ReproductionSize",
    "parse_seeds",
    "reproduce",
    "select_size",
]
