"""The dashboard as people meet it: a server, Chromium, and a picture of each page in artifacts/."""

from pathlib import Path

import pytest
from browser import photograph

ARTIFACTS = Path(__file__).parents[2] / "artifacts" / "dashboard"


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    yield page
    page.close()


def test_it_opens(page, address):
    page.goto(address)
    photograph(page, ARTIFACTS / "overview.png")
    assert page.locator(".stPlotlyChart").count()
    assert not page.locator(".stException").count()
