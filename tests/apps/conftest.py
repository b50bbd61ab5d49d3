"""The dashboard, run without a browser."""

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from browser import chromium, find_chromium, serving
from playwright.sync_api import Browser
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash
from synthetic_run import Size, write_run

from apps.server import PAGE

SMALL = Size(images=40, queries=12, layers=9, kept=10, height=24, width=32)


@pytest.fixture(autouse=True)
def close_runs() -> Iterator[None]:
    """Let go of the runs that the pages keep open, so that no connection outlives the tests."""
    yield
    st.cache_resource.clear()
    st.cache_data.clear()
    gc.collect()


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """A function that opens a page on run directories and checks that nothing was raised.

    Unless a run is `damaged`, no page may have met what it does not expect.
    """

    def open_page(
        *runs: Path, page: str = "overview", damaged: bool = False, **state: object
    ) -> AppTest:
        monkeypatch.setattr(sys, "argv", [str(PAGE), *map(str, runs)])
        app = AppTest.from_file(PAGE, default_timeout=60)
        # A page that is a function has no other name here; the first page answers at the root.
        app._page_hash = calc_hash(page)
        app.query_params.update({key: str(value) for key, value in state.items()})
        app.run()
        assert not app.exception
        assert damaged or not any("defect" in error.value for error in app.error)
        return app

    return open_page


@pytest.fixture(scope="session")
def made_up_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of SMALL over the same images."""
    folder = tmp_path_factory.mktemp("made-up")
    return [write_run(folder / f"run-{seed}", SMALL, seed) for seed in (1, 2)]


# For one file of tests at a time: Playwright runs an event loop, which others would meet.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where there is none."""
    found = find_chromium()
    if found is None:
        pytest.skip("there is no Chromium: install it, or name one in MPDIAG_CHROMIUM")
    with chromium(found) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(made_up_runs: list[Path], browser: Browser) -> Iterator[str]:
    """Where the dashboard over `made_up_runs` is served."""
    with serving(made_up_runs) as address:
        yield address
