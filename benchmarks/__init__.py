"""Benchmarks of `mpdiag bench`: each compares implementations in one process. Not in the wheel."""
