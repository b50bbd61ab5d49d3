"""Mapping from the classes of a model to those of a data set."""

import pytest
import torch

from mpdiag.analysis.class_mapping import map_classes
from mpdiag.data import ClassInfo
from mpdiag.errors import CheckpointError


def classes(*names: str) -> list[ClassInfo]:
    return [ClassInfo(number, name) for number, name in enumerate(names)]


def columns(labels: list[str] | None, *names: str) -> list[int]:
    found = map_classes(labels, len(labels or names), classes(*names), "model", "data")
    return list(found.columns)


def test_names_match_in_any_order_and_case() -> None:
    assert columns(["cat", "dog", "sky"], "cat", "dog", "sky") == [0, 1, 2]
    assert columns(["N/A", "sky", "N/A", "Cat "], "cat", "sky") == [3, 1]
    assert columns(["road", "bed"], "bed", "road, route") == [1, 0]
    assert columns(["cat, kitten", "kitten"], "kitten", "cat") == [1, 0]  # the exact name first
    assert columns(None, "cat", "dog") == [0, 1]


def test_classes_without_names_are_matched_by_position_with_a_note(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    assert columns(["dog", "cat"], "cat", "dog") == [1, 0] and not caplog.messages
    assert columns(None, "cat", "dog") == [0, 1]
    assert caplog.messages == ["model: has no class names; class k is taken to be class k of data"]


def test_mostly_equal_lists_keep_their_order() -> None:
    assert columns(["wall", "sky", "tree", "windowpane"], "wall", "sky", "tree", "window") == [
        *range(4)
    ]
    with pytest.raises(CheckpointError, match="don't include window of data"):
        columns(["sky", "wall", "tree", "windowpane"], "wall", "sky", "tree", "window")


def test_missing_classes_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"model: its 2 classes \(cat, dog\)") as caught:
        map_classes(["cat", "dog"], 2, classes(*"abcdefg"), "model", "data.json")
    assert "don't include a, b, c, d, e and 2 more of data.json" in str(caught.value)
    assert "correct the model's names (transformers: id2label in config.json)" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"its 6 classes \(a, b, c, d, e, \.\.\.\) don't"):
        map_classes(list("abcdef"), 6, classes("x"), "model", "data")
    with pytest.raises(CheckpointError, match="predicts 3 classes, but data has 2"):
        map_classes(None, 3, classes("a", "b"), "model", "data")
    with pytest.raises(CheckpointError, match="don't include"):  # two classes of the same label
        columns(["cat, feline", "dog", "sky"], "cat", "feline", "dog")


def test_other_classes_are_added_to_no_object() -> None:
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    mapped = map_classes(["a", "b", "c", "d"], 4, classes("c", "a"), "model", "data")
    probability, found = logits.softmax(-1), mapped(logits).softmax(-1)
    torch.testing.assert_close(found[..., 0], probability[..., 2])
    torch.testing.assert_close(found[..., 1], probability[..., 0])
    torch.testing.assert_close(found[..., 2], probability[..., [1, 3, 4]].sum(-1))
    same = map_classes(["a", "b"], 2, classes("a", "b"), "model", "data")
    three = logits[..., :3]
    assert same(three) is three
