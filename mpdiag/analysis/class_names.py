"""Which of a model's classes are the data set's, told by their names."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpdiag.data import ClassInfo
from mpdiag.errors import CheckpointError

NAMES_SHOWN = 5  # of classes in an error
SAME_ORDER = 0.75  # share of names that agree, above which two lists are one in other words


@dataclass(frozen=True, slots=True)
class ClassMap:
    """The class logits of a model of M classes as those of a data set's K classes.

    Attributes:
        columns: for each class of the data set the model's.
        classes: M.
        exclusive: whether one of the classes or no-object is the case, as under a softmax; else
            each class is told from no-object by itself.
    """

    columns: tuple[int, ...]
    classes: int
    exclusive: bool = True

    def __call__(self, class_logits: Tensor) -> Tensor:
        """(..., M + 1) -> (..., K + 1), no-object last.

        A probability that the model gives to a class which the data set hasn't goes to no-object;
        those of the others stay as they are.
        """
        if self.columns == tuple(range(self.classes)):
            return class_logits
        if not self.exclusive:
            return class_logits[..., [*self.columns, self.classes]]
        others = sorted(set(range(self.classes + 1)) - set(self.columns))
        kept = class_logits[..., list(self.columns)]
        exact = torch.promote_types(kept.dtype, torch.float32)
        nothing = class_logits[..., others].to(exact).logsumexp(-1, keepdim=True)
        return torch.cat([kept, nothing.to(kept.dtype)], dim=-1)

    @property
    def left_out(self) -> int:
        """How many classes of the model the data set hasn't."""
        return self.classes - len(self.columns)


def class_map(
    labels: Sequence[str] | None,
    count: int,
    classes: Sequence[ClassInfo],
    model: str,
    data: str,
    *,
    exclusive: bool = True,
) -> ClassMap:
    """Find the data set's classes among the model's.

    They are found by name, whatever the order. Synonyms are separated by commas, and one in common
    is enough. Where that fails, two lists of the same length whose names agree in most places are
    one list in other words, as ADE20K's are. Without names, the numbers must be the same.

    Args:
        labels: the model's names in the order of its logits; None if it has none.
        count: of the model's classes.
        classes: the data set's.
        model, data: how an error calls them.
        exclusive: see `ClassMap`.

    Raises:
        CheckpointError: not all of the data set's classes are among the model's.
    """
    in_order = ClassMap(tuple(range(count)), count, exclusive)
    if labels is None:
        if count != len(classes):
            raise CheckpointError(
                f"{model}: predicts {count} classes, but {data} has {len(classes)}; give the data "
                "set that it was trained on"
            )
        return in_order
    names = [info.name for info in classes]
    columns = [_column(name, labels) for name in names]
    found = [column for column in columns if column is not None]
    if len(set(found)) == len(names):
        return ClassMap(tuple(found), count, exclusive)
    here = [column == place for place, column in enumerate(columns)]
    if count == len(names) and sum(here) >= SAME_ORDER * count:
        return in_order
    unknown = [name for name, column in zip(names, columns, strict=True) if column is None]
    some = ", ".join((unknown or names)[:NAMES_SHOWN])
    more = f" and {len(unknown) - NAMES_SHOWN} more" if len(unknown) > NAMES_SHOWN else ""
    raise CheckpointError(
        f"{model}: its {count} classes ({', '.join(labels[:NAMES_SHOWN])}, ...) don't name {some}"
        f"{more} of {data}; give the data set that it was trained on"
    )


def _column(name: str, labels: Sequence[str]) -> int | None:
    """The first label of that name, else the first that shares a synonym with it."""
    wanted = _words(name)
    exact = (place for place, label in enumerate(labels) if _plain(label) == _plain(name))
    shared = (place for place, label in enumerate(labels) if _words(label) & wanted)
    return next(exact, next(shared, None))


def _words(name: str) -> set[str]:
    return {_plain(part) for part in name.split(",")}


def _plain(name: str) -> str:
    return " ".join(name.lower().split())
