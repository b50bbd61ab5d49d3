"""Measured speed, always beside something else in the same process."""
