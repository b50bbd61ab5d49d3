"""The dashboard in Chromium: all pages in all states, wide and light, narrow and dark; clicks."""

import io
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import chromium, find_chromium, serve, wait_until_ready
from page_checks import accessibility_findings, check_layout
from PIL import Image
from playwright.sync_api import Page, TimeoutError

from apps.dashboard import VIEWS
from apps.runs import LOADING
from mpdiag.store.diagnosis import FILE_NAME, Diagnosis, Finding
from mpdiag.store.transitions import TRANSITIONS

SCRIPT = Path(__file__).with_name("staged_dashboard.py")
LOOKS = ((1280, "light"), (768, "dark"))
FIRST = next(iter(VIEWS))  # Streamlit serves it only at the root
ALERT, ERROR = "[data-testid=stAlert]", "[data-testid=stAlertContentError]"
BROKEN = ".stException, [role=dialog], [data-testid=stSkeleton]"
HEIGHT = 900
# Go to an address without a load, and note when the script of its page starts.
GO_TO = """address => {
    const app = document.querySelector('[data-testid=stApp]');
    window.started = false;
    new MutationObserver((_, observer) => {
        if (app.dataset.testScriptState === 'notRunning') return;
        observer.disconnect();
        window.started = true;
    }).observe(app, {attributes: true});
    history.pushState({}, '', address);
    dispatchEvent(new PopStateEvent('popstate', {state: {}}));
}"""

pytestmark = pytest.mark.slow


# Not for the session: Playwright runs an event loop, which would affect other test files.
@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_run):
    """Runs by state: two normal ones with a diagnosis, two without images, two damaged ones."""
    folder = tmp_path_factory.mktemp("states")
    for seed, name in enumerate(("run-1", "run-2")):
        normal = make_run(folder / "normal" / name, images=26, seed=seed)
        make_run(folder / "empty" / name, images=0)
        damage(make_run(folder / "damaged" / name))
        evidence = {"images": [2, 3, 4, 6, 7, 8], "dead_share": 0.25}
        first = Finding("dead-queries", 0.1, (0.05, 0.12), (4,), (0,), (2, 3), evidence)
        second = Finding("class-confusion", 0.04, (0.01, 0.05))
        layers = [{"layer": layer, "ap": 0.03 * layer, "ap50": 0.05 * layer} for layer in range(10)]
        Diagnosis(0.36, [first, second], 0.01, 26, layers).write(normal / FILE_NAME)
    targets = [folder / "normal" / name / "targets" for name in ("run-1", "run-2")]
    for file in targets[0].iterdir():  # the same GT in both, so that they can be compared
        shutil.copy(file, targets[1] / file.name)
    return folder


def damage(run: Path) -> None:
    """Make the diagnosis and the rows of a run invalid."""
    (run / FILE_NAME).write_text("{}")
    for table, column, value in (
        ("targets", "matched_query", []),
        ("queries", "iou_prev", "word"),
        ("queries", "matched_gt_iou", "word"),
    ):
        file = next((run / table).glob("*.parquet"))
        rows = pq.read_table(file)
        place = rows.schema.get_field_index(column)
        kind = pa.string() if value else rows.schema.field(column).type
        values = pa.array([value] * len(rows), kind)
        pq.write_table(rows.set_column(place, column, values), file)
    for file in (run / "aggregates").glob("*"):
        file.unlink()


@pytest.fixture(scope="module")
def requested() -> set[str]:
    """The scheme and host of everything that the browser requested."""
    return set()


@pytest.fixture(scope="module")
def window(requested: set[str]) -> Iterator[Page]:
    """One page of a headless Chromium; tests are skipped without one."""
    path = find_chromium()
    if path is None:
        pytest.skip("Chromium not found: install it, or set MPDIAG_CHROMIUM to its path")
    with chromium(path) as browser:
        # Without a GPU, drawing animations takes much time.
        page = browser.new_page(viewport={"width": 1280, "height": HEIGHT}, reduced_motion="reduce")
        page.set_default_timeout(30_000)
        page.on("request", lambda request: requested.add("{}://{}".format(*urlsplit(request.url))))
        yield page


@pytest.fixture(scope="module")
def url(folder: Path, window: Page) -> Iterator[str]:
    """The URL of the dashboard with the runs of `folder`."""
    with serve([folder], SCRIPT) as url:
        yield url


@pytest.fixture
def page(window: Page) -> Page:
    window.set_viewport_size({"width": 1280, "height": HEIGHT})
    window.emulate_media(color_scheme="light")
    return window


def address(url: str, path: str, **state: object) -> str:
    return f"{url}/{'' if path == FIRST else path}?{urlencode(state)}"


def visit(page: Page, url: str, path: str, **state: object) -> None:
    """Open a page of the dashboard like the Back button does, if possible without a new load."""
    where, started = address(url, path, **state), False
    if page.url.startswith(f"{url}/"):
        wait_until_ready(page)
        page.evaluate(GO_TO, where)
        # A short script can start and end between two renderings, which nothing shows.
        with suppress(TimeoutError):
            page.wait_for_function("window.started", timeout=5_000)
            started = True
    if not started:
        page.goto(where)
    wait_until_ready(page)
    assert page.locator("h1").inner_text() == VIEWS[path][0]


def looks(page: Page, order: Sequence[tuple[int, str]] = LOOKS) -> Iterator[None]:
    """Check the layout at each width, in each theme; yield in between."""
    for width, theme in order:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        page.emulate_media(color_scheme=theme)
        check_layout(page, theme)
        yield


def run_model(page: Page, checkpoint: str = "model.pth") -> None:
    """Enter a checkpoint and an image on the page Live."""
    page.get_by_test_id("stTextInputField").fill(checkpoint)
    page.get_by_test_id("stTextInputField").press("Enter")
    page.wait_for_selector("text=Select an image")
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), "green").save(stream, "PNG")
    photo = {"name": "photo.png", "mimeType": "image/png", "buffer": stream.getvalue()}
    page.set_input_files("input[type=file]", [photo])


@pytest.fixture
def hold(folder: Path) -> Iterator[Path]:
    """A file while which exists, pages that read rows are loading."""
    hold = folder / "hold"
    hold.touch()
    yield hold
    hold.unlink(missing_ok=True)


@pytest.mark.parametrize("path", VIEWS)
def test_page_while_it_loads_and_after(page, url, hold, path):
    page.goto(address(url, path))
    if path == "live":
        run_model(page)
    words = "Running the model ..." if path == "live" else LOADING
    page.wait_for_selector(f"[data-testid=stSpinner] >> text={words}")
    for _ in looks(page):
        assert page.locator("[data-testid=stSpinner]").count() == 1
        assert not page.locator(ERROR).count()
    hold.unlink()
    wait_until_ready(page)
    assert page.locator("h1").inner_text() == VIEWS[path][0]
    for _ in looks(page, LOOKS[::-1]):  # the page already has the last look
        assert not page.locator(f"{ALERT}, {BROKEN}, [data-testid=stSpinner]").count()
    assert not accessibility_findings(page)


@pytest.mark.parametrize("path", VIEWS)
def test_page_without_content(page, url, path):
    visit(page, url, path, state="empty")
    for _ in looks(page):
        assert page.locator(ALERT).count() == 1
        assert not page.locator(f"{ERROR}, {BROKEN}").count()
    assert not accessibility_findings(page)


@pytest.mark.parametrize("path", VIEWS)
def test_page_with_an_error(page, url, path):
    visit(page, url, path, state="damaged")
    if path == "live":
        run_model(page, "missing.pth")
    page.wait_for_selector(ERROR)
    wait_until_ready(page)
    for _ in looks(page):
        assert page.locator(ERROR).count() == 1
        assert not page.locator(BROKEN).count()
    assert not accessibility_findings(page)


def test_from_a_finding_to_the_inspector_and_back(page, url):
    visit(page, url, FIRST)
    page.locator("[data-testid=stPageLink] a[href*='image=3']").first.click()
    page.wait_for_selector("h2 >> text=Query 2 in all layers")
    wait_until_ready(page)
    assert re.search(r"/inspector\?.*finding=1", page.url) and "layer=4" in page.url
    assert page.locator(".legend dt").all_inner_texts()[1:] == [
        "IoU 90%",
        "match GT 2",
        "⇄",
        "GT 2: 80%",
        "car 0.95",
    ]
    page.get_by_role("button", name="000004.jpg").click()
    page.wait_for_url(lambda url: "image=4" in url and "finding=1" in url)
    page.get_by_role("link", name="Back to the diagnosis").click()
    page.wait_for_selector("h1 >> text=Diagnosis")
    page.go_back()
    page.wait_for_selector("h1 >> text=Inspector")
    assert "image=4" in page.url


def test_gallery_links_to_the_inspector(page, url):
    visit(page, url, "images")
    link = page.locator("[data-testid=stPageLink] a[href*='image=']").first
    image = re.search(r"image=(\d+)", link.get_attribute("href")).group(1)
    link.click()
    page.wait_for_selector("h2 >> text=in all layers")
    wait_until_ready(page)
    assert "/inspector?" in page.url and f"image={image}" in page.url
    assert not page.locator(ERROR).count()


def test_url_restores_a_view(page, url):
    run = "run-2-matching-part"
    page.goto(address(url, "transitions", run=run, transition="vanished", layer=2))
    page.wait_for_selector(f"text=Vanished: {TRANSITIONS['vanished']}.")
    assert page.locator(".st-key-widget-run input").input_value() == "run-2, matching part"
    assert run in page.url


def test_click_on_a_bar_updates_the_url(page, url):
    visit(page, url, "queries", query=3)
    page.wait_for_selector("h2 >> text=Query 3 in M⁹")
    bar = page.locator(".stPlotlyChart").first.locator(".bars path").nth(5)
    box = bar.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("h2 >> text=Query 5 in M⁹")
    assert "query=5" in page.url


def test_figures_and_tables_can_be_saved(page, url, tmp_path):
    visit(page, url, "overview")
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


def test_browser_sends_requests_only_to_the_server(page, url, requested):
    visit(page, url, FIRST)
    icon = page.locator("link[rel='shortcut icon']").get_attribute("href")
    assert icon.startswith("data:image/svg+xml,")
    hosts = {host for host in requested if not host.startswith(("data:", "blob:"))}
    assert hosts == {url}
