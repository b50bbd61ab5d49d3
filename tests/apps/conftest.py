"""Fixtures: the dashboard without a browser."""

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.components.v2.component_manager import BidiComponentManager
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from apps.server import SCRIPT


@pytest.fixture(autouse=True, scope="session")
def no_custom_components() -> Iterator[None]:
    """The dashboard has none. For each AppTest, Streamlit would read all packages' metadata."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BidiComponentManager, "discover_and_register_components", lambda *_, **__: 0)
        yield


@pytest.fixture(autouse=True, scope="module")
def close_runs() -> Iterator[None]:
    """Close the runs that the pages cache, so that no connection outlives the tests of a file."""
    yield
    st.cache_resource.clear()
    st.cache_data.clear()
    gc.collect()


@pytest.fixture(scope="module")
def shared_run(
    make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Return `make_run` for runs that no test changes: what pages cache of them serves all tests.

    It takes the name of the run, and the options of `make_run`.
    """
    folder, runs = tmp_path_factory.mktemp("shared"), dict[str, Path]()

    def shared(name: str, /, **options: object) -> Path:
        key = f"{name} {options}"
        if key not in runs:
            runs[key] = make_run(folder / str(len(runs)) / name, **options)
        return runs[key]

    return shared


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Return a function that opens a page for run directories and checks for exceptions.

    Unexpected errors on the page are allowed only with `damaged`.
    """

    def open_page(
        *runs: Path, page: str = "overview", damaged: bool = False, **state: object
    ) -> AppTest:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, runs)])
        app = AppTest.from_file(SCRIPT, default_timeout=60)
        # AppTest selects a page by the hash of its URL path.
        app._page_hash = calc_hash(page)
        app.query_params.update({key: str(value) for key, value in state.items()})
        app.run()
        assert not app.exception
        assert damaged or not any("Unexpected error" in error.value for error in app.error)
        return app

    return open_page
