"""What can be wrong with a data set, as loading refuses it and `mpdiag data check` lists it."""

from collections.abc import Callable

from mpdiag.errors import DataError


class DataProblem(DataError):
    """One thing that is wrong; problems of one `kind` are counted together.

    `count` is how many times, where one sentence tells of several.
    """

    def __init__(self, kind: str, message: str, count: int = 1) -> None:
        super().__init__(kind, message, count)  # all of it, so that processes can exchange it
        self.kind = kind
        self.message = message
        self.count = count

    def __str__(self) -> str:
        return self.message


ProblemHandler = Callable[[DataProblem], None]
"""What is done with a problem. Where it returns, reading goes on without what is wrong."""

MISSING_FILE = "missing file"


def raise_problem(problem: DataProblem) -> None:
    """The report of loading: the first problem is raised."""
    raise problem from None
