"""The dashboard in Chromium; saves screenshots of all pages to artifacts/."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import screenshot, wait_until_ready

from apps.dashboard import VIEWS
from mpdiag.store.transitions import TRANSITIONS

ARTIFACTS = Path(__file__).parents[2] / "artifacts" / "dashboard"


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    yield page
    page.close()


@pytest.mark.parametrize("path", VIEWS)
def test_every_page_opens_and_fits_the_window(page, url, path):
    is_first = path == next(iter(VIEWS))  # Streamlit serves it only at the root
    page.goto(url if is_first else f"{url}/{path}")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        screenshot(page, ARTIFACTS / f"{path}-{theme}.png")
    assert page.locator("h1").inner_text() == VIEWS[path][0]
    wrong = ".stException, [data-testid=stAlertContentError], [role=dialog]"
    assert not page.locator(wrong).count()
    width = page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth")
    assert width <= 1280


def test_browser_sends_requests_only_to_the_server(page, url):
    hosts = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url)[:2]))
    for path in ("", "/images"):
        page.goto(f"{url}{path}")
        wait_until_ready(page)
    icon = page.locator("link[rel='shortcut icon']").get_attribute("href")
    assert icon.startswith("data:image/svg+xml,")
    hosts = {(scheme, host) for scheme, host in hosts if scheme not in ("data", "blob")}
    assert hosts == {("http", urlsplit(url).netloc)}


def test_gallery_links_to_the_inspector(page, url):
    page.goto(f"{url}/images")
    wait_until_ready(page)
    link = page.locator("[data-testid=stPageLink] a[href*='image=']").first
    image = re.search(r"image=(\d+)", link.get_attribute("href")).group(1)
    link.click()
    page.wait_for_selector("h2 >> text=in all layers")
    wait_until_ready(page)
    assert "/inspector?" in page.url and f"image={image}" in page.url
    assert not page.locator("[data-testid=stAlertContentError]").count()


def test_url_restores_a_view(page, url):
    page.goto(f"{url}/queries?run=run-2-matching-part&layer=3&query=5&figures=png")
    page.wait_for_selector("h2 >> text=Query 5 in M³")
    wait_until_ready(page)
    chosen = page.locator(".st-key-widget-run input")
    assert chosen.input_value() == "run-2, matching part"
    page.goto(f"{url}/transitions?run=run-2-matching-part&transition=vanished&layer=2")
    page.wait_for_selector(f"text=Vanished: {TRANSITIONS['vanished']}.")
    assert "run-2" in page.url


def test_click_on_a_bar_updates_the_url(page, url):
    page.goto(f"{url}/queries?query=3")
    page.wait_for_selector("h2 >> text=Query 3 in M⁹")
    wait_until_ready(page)
    bar = page.locator(".stPlotlyChart").first.locator(".bars path").nth(7)
    box = bar.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("h2 >> text=Query 7 in M⁹")
    assert "query=7" in page.url


def test_figures_and_tables_can_be_saved(page, url, tmp_path):
    page.goto(f"{url}/overview")
    wait_until_ready(page)
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
    assert (tmp_path / "table.csv").read_text().startswith("Model,Metric,0,1,2,")
