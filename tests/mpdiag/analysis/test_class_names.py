"""A model's classes found among a data set's, by hand."""

import pytest
import torch

from mpdiag.analysis.class_names import class_map
from mpdiag.data import ClassInfo
from mpdiag.errors import CheckpointError


def classes(*names: str) -> list[ClassInfo]:
    return [ClassInfo(number, name) for number, name in enumerate(names)]


def columns(labels: list[str] | None, *names: str) -> list[int]:
    found = class_map(labels, len(labels or names), classes(*names), "model", "data")
    return list(found.columns)


def test_names_are_found_in_any_order_and_case() -> None:
    assert columns(["cat", "dog", "sky"], "cat", "dog", "sky") == [0, 1, 2]
    assert columns(["N/A", "sky", "N/A", "Cat "], "cat", "sky") == [3, 1]
    assert columns(["road", "bed"], "bed", "road, route") == [1, 0]
    assert columns(["cat, kitten", "kitten"], "kitten", "cat") == [1, 0]  # the exact name first
    assert columns(None, "cat", "dog") == [0, 1]


def test_one_list_in_other_words_keeps_its_order() -> None:
    assert columns(["wall", "sky", "tree", "windowpane"], "wall", "sky", "tree", "window") == [
        *range(4)
    ]
    with pytest.raises(CheckpointError, match="don't name window of data"):
        columns(["sky", "wall", "tree", "windowpane"], "wall", "sky", "tree", "window")


def test_classes_that_do_not_fit_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"model: its 2 classes \(cat, dog, ...\)") as caught:
        class_map(["cat", "dog"], 2, classes(*"abcdefg"), "model", "data.json")
    assert "don't name a, b, c, d, e and 2 more of data.json" in str(caught.value)
    with pytest.raises(CheckpointError, match="predicts 3 classes, but data has 2"):
        class_map(None, 3, classes("a", "b"), "model", "data")
    with pytest.raises(CheckpointError, match="don't name"):  # two classes of the same label
        columns(["cat, feline", "dog", "sky"], "cat", "feline", "dog")


def test_what_the_data_set_has_not_becomes_no_object() -> None:
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    mapped = class_map(["a", "b", "c", "d"], 4, classes("c", "a"), "model", "data")
    assert mapped.left_out == 2
    probability, found = logits.softmax(-1), mapped(logits).softmax(-1)
    torch.testing.assert_close(found[..., 0], probability[..., 2])
    torch.testing.assert_close(found[..., 1], probability[..., 0])
    torch.testing.assert_close(found[..., 2], probability[..., [1, 3, 4]].sum(-1))
    same = class_map(["a", "b"], 2, classes("a", "b"), "model", "data")
    three = logits[..., :3]
    assert same(three) is three
