import pytest


@pytest.fixture
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing in reports: Matplotlib takes most of their time."""
    monkeypatch.setattr("reports.report.draw_curves", lambda table, kind: kind.encode())
