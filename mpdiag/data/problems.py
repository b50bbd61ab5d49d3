"""Problems of a data set: loading raises the first one, `mpdiag data check` collects all."""

from collections.abc import Callable

from mpdiag.errors import DataError
from mpdiag.printable import printable


class DataProblem(DataError):
    """One problem of a data set.

    Attributes:
        kind: problems of the same kind are counted together.
        message: one line for the user.
        count: number of occurrences that the message covers.
    """

    def __init__(self, kind: str, message: str, count: int = 1) -> None:
        super().__init__(kind, message, count)  # all arguments, so that it can be pickled
        self.kind = kind
        self.message = message
        self.count = count

    def __str__(self) -> str:
        return printable(self.message)


ProblemHandler = Callable[[DataProblem], None]
"""Called with each problem; if it returns, reading continues without the invalid entry."""

MISSING_FILE = "missing file"


def raise_problem(problem: DataProblem) -> None:
    """Raise the problem: the default handler."""
    raise problem from None
