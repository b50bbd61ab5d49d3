"""The dashboard as people meet it: a server, Chromium, and a picture of each page in artifacts/."""

import re
from pathlib import Path

import pytest
from browser import photograph, settle

from apps.dashboard import VIEWS

ARTIFACTS = Path(__file__).parents[2] / "artifacts" / "dashboard"
TOO_WIDE = "[data-testid=stMain]"


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    yield page
    page.close()


@pytest.mark.parametrize("path", VIEWS)
def test_every_page_opens_and_fits_the_window(page, address, path):
    first = path == next(iter(VIEWS))  # which Streamlit serves at the root alone
    page.goto(address if first else f"{address}/{path}")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        photograph(page, ARTIFACTS / f"{path}-{theme}.png")
    assert page.locator("h1").inner_text() == VIEWS[path][0]
    wrong = ".stException, [data-testid=stAlertContentError], [role=dialog]"
    assert not page.locator(wrong).count()
    wide = page.evaluate(f"document.querySelector('{TOO_WIDE}').scrollWidth")
    assert wide <= 1280


def test_from_the_gallery_to_an_image_and_its_queries(page, address):
    page.goto(f"{address}/images")
    settle(page)
    link = page.locator("[data-testid=stPageLink] a[href*='image=']").first
    image = re.search(r"image=(\d+)", link.get_attribute("href")).group(1)
    link.click()
    page.wait_for_selector("h2 >> text=through the layers")
    settle(page)
    assert "/inspector?" in page.url and f"image={image}" in page.url
    assert not page.locator("[data-testid=stAlertContentError]").count()


def test_a_link_shows_what_it_says(page, address):
    page.goto(f"{address}/queries?run=run-2-matching-part&layer=3&query=5&figures=png")
    page.wait_for_selector("h2 >> text=Query 5 in M³")
    settle(page)
    chosen = page.locator(".st-key-widget-of-run input")
    assert chosen.input_value() == "run-2, matching part"
    page.goto(f"{address}/transitions?run=run-2-matching-part&transition=vanished&layer=2")
    page.wait_for_selector("text=Vanished: empty now, and was not before.")
    assert "run-2" in page.url


def test_a_click_on_a_bar_goes_to_the_address(page, address):
    page.goto(f"{address}/queries?query=3")
    page.wait_for_selector("h2 >> text=Query 3 in M⁹")
    settle(page)
    bar = page.locator(".stPlotlyChart").first.locator(".bars path").nth(7)
    box = bar.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("h2 >> text=Query 7 in M⁹")
    assert "query=7" in page.url


def test_a_figure_and_a_table_can_be_saved(page, address, tmp_path):
    page.goto(address)
    settle(page)
    chart = page.locator(".stPlotlyChart").first
    chart.hover()
    with page.expect_download() as figure:
        chart.locator("[data-title*='ownload']").click()
    assert figure.value.suggested_filename == "mpdiag-curves.svg"
    figure.value.save_as(tmp_path / "curves.svg")
    assert "mIoU-L" in (tmp_path / "curves.svg").read_text()
    with page.expect_download() as table:
        page.locator("[data-testid=stDownloadButton] button").first.click()
    table.value.save_as(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text().startswith("Model,Metric,1,2,")
