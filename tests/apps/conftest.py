"""The dashboard's page, run without a browser."""

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from apps.server import PAGE


@pytest.fixture(autouse=True)
def close_runs() -> Iterator[None]:
    """Let go of the runs that the page keeps open, so that no connection outlives the tests."""
    yield
    st.cache_resource.clear()
    gc.collect()


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """A function that opens the page on run directories and checks that nothing was raised."""

    def open_page(*runs: Path) -> AppTest:
        monkeypatch.setattr(sys, "argv", [str(PAGE), *map(str, runs)])
        page = AppTest.from_file(PAGE, default_timeout=60).run()
        assert not page.exception
        return page

    return open_page
