"""Tables that are saved."""

import pandas as pd
import pytest

from apps import elements


@pytest.mark.parametrize(
    "text",
    ["=1+1", "@SUM(A1)", "+1+1", "-1+cmd|' /C calc'!A0", "--1", "-", "\t=1", "\r=1", "=1\r=2"],
)
def test_a_name_from_a_file_is_no_formula(text):
    saved = elements.csv(pd.DataFrame({text: [text]})).decode()
    table = pd.read_csv(pd.io.common.StringIO(saved), dtype=str)
    assert table.columns[0] == f"'{text}"
    assert table.iloc[0, 0] == f"'{text}"


def test_numbers_stay_numbers():
    cells = [-0.5, 3, -7, "-0.5", "+2", "-1e-3", None, "a=b", "mid-word"]
    saved = elements.csv(pd.DataFrame({"x": pd.Series(cells, dtype=object)})).decode()
    assert saved.split("\r\n")[1:-1] == [
        "-0.5",
        "3",
        "-7",
        "-0.5",
        "+2",
        "-1e-3",
        '""',
        "a=b",
        "mid-word",
    ]
