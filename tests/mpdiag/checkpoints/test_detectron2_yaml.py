"""detectron2's YAML files: chains of base files, tags, dotted keys."""

from pathlib import Path

import pytest

from mpdiag.checkpoints.detectron2_yaml import (
    MISSING,
    TaggedValue,
    dotted_keys,
    get,
    is_detectron2_config,
    override,
    read_detectron2_config,
)
from mpdiag.errors import ConfigError


def test_later_files_override_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("X: {one: 1, two: 1, three: 1}")
    (tmp_path / "b.yaml").write_text("X: {two: 2, three: 2}")
    (tmp_path / "c.yaml").write_text("_BASE_: [a.yaml, b.yaml]\nX: {three: 3}")
    assert read_detectron2_config(tmp_path / "c.yaml") == {"X": {"one": 1, "two": 2, "three": 3}}


@pytest.mark.parametrize(
    "text, message",
    [
        ("_BASE_: c.yaml", "is its own base"),
        ("_BASE_: gone.yaml", r"_BASE_ = 'gone\.yaml' does not exist"),
        ("_BASE_: ~nosuchuser/b.yaml", r"_BASE_ = '~nosuchuser/b\.yaml' does not exist"),
        (f"_BASE_: {'b' * 5000}", r"_BASE_ = 'bbb.* does not exist"),
        ("_BASE_: https://example.org/base.yaml", "give a local file"),
        ("MODEL: {X: !!python/object/apply:os.system [touch ran]}", r"MODEL\.X has a tag"),
        ("INPUT: {MIN_SIZE_TEST: !!python/object/apply:eval ['1']}", "MIN_SIZE_TEST has a tag"),
        ("MODEL: [1, !thing {a: 2}]", "MODEL has a tag"),
        ("MODEL: [1", "not a readable YAML"),
        ("- 1", "a mapping of settings"),
    ],
)
def test_unusable_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_detectron2_config(tmp_path / "c.yaml")
    assert not (tmp_path / "ran").exists()


def sizes_of(folder: Path, text: str) -> object:
    (folder / "c.yaml").write_text(f"INPUT: {{MIN_SIZE_TRAIN: {text}}}")
    return get(read_detectron2_config(folder / "c.yaml"), "INPUT.MIN_SIZE_TRAIN")


def test_the_code_of_the_released_files_is_parsed(tmp_path: Path) -> None:
    """Their only expression, evaluated by Python here for comparison."""
    for side in (512, 640, 1024, 2048):
        text = f"[int(x * 0.1 * {side}) for x in range(5, 21)]"
        tagged = f'!!python/object/apply:eval ["{text}"]'
        assert sizes_of(tmp_path, tagged) == [int(x * 0.1 * side) for x in range(5, 21)]


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:eval [\"open('ran', 'w')\"]",
        '!!python/object/apply:os.system ["touch ran"]',
        "!!python/object/apply:os.system ['[int(x * 0.1 * 512) for x in range(5, 21)]']",
        '!!python/object/apply:eval ["[int(x * 0.1 * 512) for x in range(5, 999999999)]"]',
        "!!python/object/apply:eval {a: b}",
    ],
)
def test_other_code_stays_a_tagged_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(sizes_of(tmp_path, text), TaggedValue)
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_code_inside_a_list_is_not_replaced(tmp_path: Path) -> None:
    code = "!!python/object/apply:eval ['[int(x * 0.1 * 512) for x in range(5, 21)]']"
    found = sizes_of(tmp_path, f"[64, {code}]")
    assert isinstance(found, list) and found[0] == 64 and isinstance(found[1], TaggedValue)


def test_values_by_dotted_key() -> None:
    """Text that is a literal is evaluated, as in yacs; other text is unchanged."""
    values = override({"A": {"B": "(1, 2)", "C": "1e-4"}}, {"A.B": "(3,)", "A.D.E": "some text"})
    assert get(values, "A.B") == [3] and get(values, "A.C") == 1e-4
    assert get(values, "A.D.E") == "some text"
    assert get(values, "A.X") is MISSING and get(values, "A.B.X") is MISSING
    assert sorted(dotted_keys(values)) == ["A.B", "A.C", "A.D.E"]


def test_is_detectron2_config(tmp_path: Path) -> None:
    for text, expected in (("MODEL: {}", True), ("_BASE_: x.yaml", True), ("model: {}", False)):
        (tmp_path / "c.yaml").write_text(text)
        assert is_detectron2_config(tmp_path / "c.yaml") == expected
