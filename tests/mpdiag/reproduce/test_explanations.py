"""The user's explanations of the results."""

from pathlib import Path

import pytest

from mpdiag.errors import ConfigError
from mpdiag.reproduce.explanations import read_explanations

TARGETS = ("table1", "table7")


def test_paragraphs_by_target(tmp_path: Path) -> None:
    file = tmp_path / "explanations.md"
    file.write_text(
        "## table7\n\nFew queries\nare trained.\n\nSo they say.\n## table1\nTwo layers.\n"
    )
    assert read_explanations(file, TARGETS) == {
        "table7": ["Few queries are trained.", "So they say."],
        "table1": ["Two layers."],
    }
    assert read_explanations(tmp_path / "none.md", TARGETS) == {}


def test_names_and_counts_are_no_measured_values(tmp_path: Path) -> None:
    text = "A ResNet-50 and 1,500 steps on 1,200,000 images, in layers 1-3."
    (tmp_path / "explanations.md").write_text(f"## table7\n{text}\n")
    assert read_explanations(tmp_path / "explanations.md", TARGETS) == {"table7": [text]}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Nothing above.\n", "explanations.md:1: 'Nothing above.' is under no target"),
        ("## table2\n", "explanations.md:1: '## table2'"),
        ("## table7\n\nIt falls\nby 2.7 points.\n", "explanations.md:3: '2.7' is a measured value"),
        ("## table7\nHalf, or 50 %.\n", "explanations.md:2: '50 %'"),
        ("## table7\nIt is +3 here.\n", "explanations.md:2"),
        ("## table7\nIt is (-3).\n", "explanations.md:2: '-3'"),
        ("## table7\nIt is 2,75.\n", "explanations.md:2: '2,7'"),
        ("## table7\nIt is 1,500.5.\n", "explanations.md:2: '500.5'"),
    ],
)
def test_an_error_names_the_line(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "explanations.md"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_explanations(file, TARGETS)
    assert named in str(error.value)
