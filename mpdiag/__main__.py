"""Entry point of `python -m mpdiag`."""

from mpdiag.cli import main

main()
