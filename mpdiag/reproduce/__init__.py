"""The paper's tables at a size that anyone can run: trainings, analyses, reports; resumable."""

from mpdiag.reproduce.experiments import SIZES, Size
from mpdiag.reproduce.run import Request, parse_seeds, reproduce, sized

__all__ = ["SIZES", "Request", "Size", "parse_seeds", "reproduce", "sized"]
