"""Map the classes of a model to those of a data set by their names."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpdiag.data import ClassInfo
from mpdiag.errors import CheckpointError

_log = logging.getLogger(__name__)

NAMES_SHOWN = 5  # of classes in an error
SAME_ORDER = 0.75  # share of equal names from which on two lists count as the same classes


@dataclass(frozen=True, slots=True)
class ClassMapping:
    """Mapping from the M classes of a model to the K classes of a data set.

    Attributes:
        columns: for each class of the data set, the class of the model.
        classes: M.
        exclusive: True for a softmax over classes and no-object, False for one sigmoid per class.
    """

    columns: tuple[int, ...]
    classes: int
    exclusive: bool = True

    def __call__(self, class_logits: Tensor) -> Tensor:
        """Map class logits (..., M + 1) to (..., K + 1), no-object last.

        The probability of classes that the data set lacks is added to no-object. Other
        probabilities stay the same.
        """
        if self.columns == tuple(range(self.classes)):
            return class_logits
        if not self.exclusive:
            return class_logits[..., [*self.columns, self.classes]]
        others = sorted(set(range(self.classes + 1)) - set(self.columns))
        kept = class_logits[..., list(self.columns)]
        dtype = torch.promote_types(kept.dtype, torch.float32)
        no_object = class_logits[..., others].to(dtype).logsumexp(-1, keepdim=True)
        return torch.cat([kept, no_object.to(kept.dtype)], dim=-1)


def map_classes(
    labels: Sequence[str] | None,
    count: int,
    classes: Sequence[ClassInfo],
    model: str,
    data: str,
    *,
    exclusive: bool = True,
) -> ClassMapping:
    """Find the classes of a data set among those of a model.

    Classes match if they share a name; commas separate the synonyms of a name. If that fails for
    some class, two lists of the same length with mostly equal names at equal positions are taken to
    be the same classes, as for ADE20K. Without names, the number of classes must be equal.

    Args:
        labels: names of the model's classes in the order of the logits; None if it has none.
        count: number of the model's classes.
        classes: classes of the data set.
        model, data: names for errors.
        exclusive: see `ClassMapping`.

    Raises:
        CheckpointError: the model lacks a class of the data set.
    """
    if labels is None:
        _log.info("%s: has no class names; class k is taken to be class k of %s", model, data)
        return map_by_number(count, classes, model, data, exclusive=exclusive)
    names = [info.name for info in classes]
    columns = [_column(name, labels) for name in names]
    found = [column for column in columns if column is not None]
    if len(set(found)) == len(names):
        return ClassMapping(tuple(found), count, exclusive)
    equal = sum(column == index for index, column in enumerate(columns))
    if count == len(names) and equal >= SAME_ORDER * count:
        return map_by_number(count, classes, model, data, exclusive=exclusive)
    unknown = [name for name, column in zip(names, columns, strict=True) if column is None]
    missing = ", ".join((unknown or names)[:NAMES_SHOWN])
    more = f" and {len(unknown) - NAMES_SHOWN} more" if len(unknown) > NAMES_SHOWN else ""
    known = ", ".join([*labels[:NAMES_SHOWN], *(["..."] if count > NAMES_SHOWN else [])])
    raise CheckpointError(
        f"{model}: its {count} classes ({known}) don't include {missing}{more} of {data}; give the "
        "data set that it was trained on, or correct the model's names (transformers: id2label in "
        "config.json)"
    )


def map_by_number(
    count: int, classes: Sequence[ClassInfo], model: str, data: str, *, exclusive: bool = True
) -> ClassMapping:
    """Map class k of a model to class k of a data set; arguments as for `map_classes`.

    Raises:
        CheckpointError: the numbers of classes differ.
    """
    if count != len(classes):
        raise CheckpointError(
            f"{model}: predicts {count} classes, but {data} has {len(classes)}; give the data set "
            "that it was trained on"
        )
    return ClassMapping(tuple(range(count)), count, exclusive)


def _column(name: str, labels: Sequence[str]) -> int | None:
    """Return the first label with this name, else the first that shares a synonym, else None."""
    synonyms = _synonyms(name)
    exact = (index for index, label in enumerate(labels) if _normalized(label) == _normalized(name))
    shared = (index for index, label in enumerate(labels) if _synonyms(label) & synonyms)
    return next(exact, next(shared, None))


def _synonyms(name: str) -> set[str]:
    return {_normalized(part) for part in name.split(",")}


def _normalized(name: str) -> str:
    return " ".join(name.lower().split())
