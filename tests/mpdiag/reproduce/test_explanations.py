"""Explanations beside results: found by table, and without figures typed by hand."""

from pathlib import Path

import pytest

from mpdiag.errors import ConfigError
from mpdiag.reproduce.explanations import read_explanations

TARGETS = ("table1", "table7")


def test_paragraphs_go_to_their_table(tmp_path: Path) -> None:
    file = tmp_path / "explanations.md"
    file.write_text(
        "## table7\n\nFew queries\nare trained.\n\nSo they say.\n## table1\nTwo layers.\n"
    )
    assert read_explanations(file, TARGETS) == {
        "table7": ["Few queries are trained.", "So they say."],
        "table1": ["Two layers."],
    }
    assert read_explanations(tmp_path / "none.md", TARGETS) == {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Nothing above.\n", "explanations.md:1: 'Nothing above.' is under no table"),
        ("## table2\n", "explanations.md:1: '## table2'"),
        ("## table7\n\nIt falls\nby 2.7 points.\n", "explanations.md:3: '2.7' is a figure"),
        ("## table7\nHalf, or 50 %.\n", "explanations.md:2: '50 %'"),
        ("## table7\nIt is +3 here.\n", "explanations.md:2"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "explanations.md"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_explanations(file, TARGETS)
    assert named in str(error.value)
