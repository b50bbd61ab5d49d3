"""A process of test_loader.py that ends while something holds its reader with workers."""

from multiprocessing import set_start_method

from mpdiag.data import read_ahead

held: list[object] = []


def end_with_a_reader() -> None:
    """End with a reader that has more to read."""
    set_start_method("fork", force=True)  # a server for the worker would import torch again
    items = read_ahead(str, range(100), 1)
    held.append(items)
    assert next(items) == "0"
