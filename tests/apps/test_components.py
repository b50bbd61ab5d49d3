"""CSV files and clicks."""

import pandas as pd
import pytest

from apps import components


@pytest.mark.parametrize(
    "text",
    ["=1+1", "@SUM(A1)", "+1+1", "-1+cmd|' /C calc'!A0", "--1", "-", "\t=1", "\r=1", "=1\r=2"],
)
def test_csv_escapes_formulas(text):
    saved = components.to_csv(pd.DataFrame({text: [text]})).decode()
    table = pd.read_csv(pd.io.common.StringIO(saved), dtype=str)
    assert table.columns[0] == f"'{text}"
    assert table.iloc[0, 0] == f"'{text}"


def test_csv_keeps_numbers():
    cells = [-0.5, 3, -7, "-0.5", "+2", "-1e-3", None, "a=b", "mid-word"]
    saved = components.to_csv(pd.DataFrame({"x": pd.Series(cells, dtype=object)})).decode()
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


def test_click_on_a_point_calls_back(monkeypatch):
    clicked = []
    monkeypatch.setattr(components, "figure", lambda *_, on_select, **__: on_select())
    for points in ([{"x": "3"}], []):
        state = {"figure bars": {"selection": {"points": points}}}
        monkeypatch.setattr(components.st, "session_state", state)
        components.clickable_figure(None, "bars", clicked.append)
    assert clicked == [{"x": "3"}]
