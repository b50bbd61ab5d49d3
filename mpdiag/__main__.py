"""`python -m mpdiag`, the form that torchrun starts."""

from mpdiag.cli import main

main()
