"""Numbers in the URL: integers are those of 64 bits, as image ids are."""

import pytest

from apps import url_state


@pytest.mark.parametrize("number", [0, -7, 10**18, 2**62 + 1, 2**63 - 1, -(2**63)])
def test_integers_of_64_bits(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(url_state.st, "query_params", {"image": str(number)})
    assert url_state.get_int("image") == number


@pytest.mark.parametrize("text", ["", "-", "--1", "1.0", str(2**63), str(-(2**63) - 1), "1" * 5000])
def test_other_texts_are_no_integers(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(url_state.st, "query_params", {"image": text})
    assert url_state.get_int("image") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3~7", (3, 5)), ("7~3", (3, 5)), ("-4~2", (0, 2)), ("6~9", (0, 5)), ("5~9", (5, 5))],
)
def test_range_outside_of_the_limits_is_ignored(text: str, expected: tuple[int, int]) -> None:
    assert url_state._parse_range(text, 0, 5) == expected
