"""Clicks."""

from apps import components


def test_click_on_a_point_calls_back(monkeypatch):
    clicked = []
    monkeypatch.setattr(components, "figure", lambda *_, on_select, **__: on_select())
    for points in ([{"x": "3"}], []):
        state = {"figure bars": {"selection": {"points": points}}}
        monkeypatch.setattr(components.st, "session_state", state)
        components.clickable_figure(None, "bars", clicked.append)
    assert clicked == [{"x": "3"}]
