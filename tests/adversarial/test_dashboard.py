"""Hostile addresses, paths and uploads, and what the dashboard's server accepts and sends."""

import io
import os
import sys
import warnings

import pytest
import streamlit as st
from PIL import Image
from streamlit import config
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash
from streamlit.web import skills
from streamlit.web.server.starlette import starlette_websocket

from apps import dashboard, server
from apps.views import live
from mpdiag.errors import RunError

NUMBER = "9" * 5000
ADDRESSES = {
    "images": {
        "page": ["9" * 18, "0", "-1"],
        "layer": [],
        "objects": ["9" * 18 + "~1", "~", "1~-2", "²~³"],
        "util": [],
    },
    "inspector": {"image": ["9" * 18, "-" + "9" * 18], "query": [], "layer": []},
    "queries": {"query": [], "layer": []},
    "transitions": {"layer": [], "kept": [], "transition": []},
    "compare": {"image": ["9" * 18], "gt": [], "a": [], "b": []},
}


def alerts(page: AppTest) -> list[str]:
    return [alert.value for alert in (*page.error, *page.exception)]


@pytest.fixture
def open_page(monkeypatch):
    """Return a function that opens the page `path` for runs with the given URL state."""

    def open_page(runs, path, state=()):
        monkeypatch.setattr(sys, "argv", [str(server.SCRIPT), *map(str, runs)])
        app = AppTest.from_file(server.SCRIPT, default_timeout=60)
        app._page_hash = calc_hash(path)
        app.query_params.update(state)
        return app.run()

    yield open_page
    st.cache_resource.clear()
    st.cache_data.clear()


@pytest.fixture
def options(monkeypatch):
    """The options that `mpdiag dashboard` passes to Streamlit, applied to `config.get_option`."""
    given: dict[str, object] = {"server.allowedHosts": []}
    for flag in server.command([]):
        name, _, value = flag.removeprefix("--").partition("=")
        if name == "server.allowedHosts":
            given[name].append(value)
        elif value:
            given[name] = {"true": True, "false": False}.get(value, value)
    original = config.get_option
    monkeypatch.setattr(
        config, "get_option", lambda name: given[name] if name in given else original(name)
    )
    return given


@pytest.mark.parametrize("path", ADDRESSES)
def test_numbers_in_an_address(make_run, open_page, tmp_path, path):
    runs = [make_run(tmp_path / name, images=3) for name in ("one", "two")]
    keys = ADDRESSES[path]
    states = [dict.fromkeys(keys, NUMBER), dict.fromkeys(keys, f"{NUMBER}~{NUMBER}")]
    states += [{key: value} for key, values in keys.items() for value in values]
    for state in states:
        assert all(
            "select another image" in alert for alert in alerts(open_page(runs, path, state))
        )


@pytest.mark.parametrize("path", ["x" * 5000, "x/" * 2500, "a\0b", "fifo"])
def test_checkpoint_path_is_an_error(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    with pytest.raises(Exception) as caught:
        live._load_model(path, live._modification_time(path), None)
    assert type(caught.value).__module__ == "mpdiag.errors"
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


def test_checkpoint_path_of_5000_characters_on_the_page(make_run, open_page, tmp_path, monkeypatch):
    monkeypatch.setattr(st, "get_option", {"server.address": "localhost"}.get)
    page = open_page([make_run(tmp_path / "one", images=1)], "live")
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    page.file_uploader[0].set_value(("photo.png", image.getvalue(), "image/png"))
    page.text_input[0].set_value("x" * 5000).run()
    assert len(alerts(page)) == 1 and "does not exist" in alerts(page)[0]


def encoded(kind: str, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF", "PDF"])
def test_upload_of_another_format_is_an_error(kind, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)  # Pillow would run Ghostscript
    with pytest.raises(RunError, match="not a readable image"):
        live._read(encoded(kind), "photo.png")


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_upload_of_too_many_pixels_is_an_error(kind, one_gib):
    data = encoded(kind, (30_000, 3_000), "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RunError, match="at most 50 million pixels"):
            live._read(data, "photo.png")


def test_upload_with_a_long_name_or_damaged_bytes():
    data = encoded("PNG")
    for end in range(len(data)):
        try:
            assert live._read(data[:end], "photo.png").shape == (8, 8, 3)
        except RunError as error:
            assert "not a readable image" in str(error)
    with pytest.raises(RunError) as caught:
        live._read(b"", "x" * 5000 + ".png")
    assert len(str(caught.value)) < 400


def test_promotion_of_streamlit_is_off(options):
    assert skills.nudge_suppression_reason() == "welcome_hidden"


def test_foreign_host_headers_are_refused(options):
    accepted = starlette_websocket.is_host_allowed
    assert all(map(accepted, ("localhost:8501", "127.0.0.1:8501", "[::1]:8501")))
    assert not any(
        map(accepted, ("evil.example", "localhost.evil.example:8501", "192.0.2.7", None))
    )


def test_icon_of_the_page_is_an_emoji():
    from streamlit.string_util import is_emoji

    assert is_emoji(dashboard.PAGE_ICON)
