"""Where the user is: all that a page shows stands in its address, so that a link shows it again.

An address comes from anybody. So a value counts only where it is one of the options that the page
offers, and otherwise the page shows its default. The address is the truth and widgets follow it:
a change of a widget writes the address first, then the page runs. A default is not written.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from apps.runs import Loaded

T = TypeVar("T")
_PAGES = "pages of the dashboard"
_LAST_RUN = "run shown last"
SEPARATOR = "~"


def choice(key: str, options: Sequence[T], default: T | None = None) -> T:
    """The option whose text the address has under `key`; else `default`, else the first."""
    found = st.query_params.get(key)
    fallback = options[0] if default is None else default
    return next((option for option in options if str(option) == found), fallback)


def number(key: str) -> int | None:
    """The whole number that the address has under `key`; the page must check that it exists."""
    text = st.query_params.get(key, "")
    return int(text) if text.isascii() and text.removeprefix("-").isdigit() else None


def put(**state: object) -> None:
    """Write to the address, as one step of the browser's history; None takes a key out of it."""
    before = st.query_params.to_dict()
    merged = {**before, **{key: str(value) for key, value in state.items() if value is not None}}
    after = {key: text for key, text in merged.items() if state.get(key, text) is not None}
    if after != before:
        st.query_params.from_dict(after)


def select(
    label: str,
    key: str,
    options: Sequence[T],
    *,
    box: DeltaGenerator | None = None,
    default: T | None = None,
    show: Callable[[T], str] = str,
    resets: Sequence[str] = (),
    help: str | None = None,
) -> T:
    """A select box whose value is in the address; a change takes the keys `resets` out of it."""
    chosen = choice(key, options, default)
    fallback = options[0] if default is None else default
    widget = _follow(key, chosen)

    def store() -> None:
        value = st.session_state[widget]
        put(**{key: None if value == fallback else value}, **dict.fromkeys(resets))

    (box or st).selectbox(label, options, format_func=show, key=widget, on_change=store, help=help)
    return chosen


def several(
    label: str,
    key: str,
    options: Sequence[T],
    *,
    box: DeltaGenerator | None = None,
    show: Callable[[T], str] = str,
    resets: Sequence[str] = (),
    placeholder: str = "all",
) -> list[T]:
    """A box of several values, in the address one after another; none chosen means all."""
    found = st.query_params.get(key, "").split(SEPARATOR)
    chosen = [option for option in options if str(option) in found]
    widget = _follow(key, chosen)

    def store() -> None:
        values = SEPARATOR.join(map(str, st.session_state[widget]))
        put(**{key: values or None}, **dict.fromkeys(resets))

    (box or st).multiselect(
        label, options, format_func=show, key=widget, on_change=store, placeholder=placeholder
    )
    return chosen


def span(
    label: str,
    key: str,
    low: int,
    high: int,
    *,
    box: DeltaGenerator | None = None,
    unit: str = "",
    resets: Sequence[str] = (),
    help: str | None = None,
) -> tuple[int, int]:
    """A slider with two ends between `low` and `high`; the whole span is not in the address."""
    chosen = _ends(st.query_params.get(key, ""), low, high)
    widget = _follow(key, chosen)

    def store() -> None:
        ends = st.session_state[widget]
        text = None if tuple(ends) == (low, high) else SEPARATOR.join(map(str, ends))
        put(**{key: text}, **dict.fromkeys(resets))

    (box or st).slider(label, low, high, key=widget, on_change=store, format=f"%d{unit}", help=help)
    return chosen


def toggle(
    label: str,
    key: str,
    *,
    default: bool = False,
    box: DeltaGenerator | None = None,
    help: str | None = None,
) -> bool:
    """A switch; in the address as 1 or 0."""
    chosen = choice(key, [int(default), int(not default)]) == 1
    widget = _follow(key, chosen)

    def store() -> None:
        value = st.session_state[widget]
        put(**{key: None if value == default else int(value)})

    (box or st).toggle(label, key=widget, on_change=store, help=help)
    return chosen


def pager(key: str, page: int, pages: int) -> None:
    """Buttons to the page before and after `page`, of 1..`pages`; nothing for a single page."""
    if pages <= 1:
        return
    before, words, after = st.columns([1, 6, 1], vertical_alignment="center")
    before.button(
        "Previous", disabled=page == 1, on_click=lambda: put(**{key: page - 1}), width="stretch"
    )
    words.caption(f"Page {page:,} of {pages:,}", text_alignment="center")
    after.button(
        "Next", disabled=page == pages, on_click=lambda: put(**{key: page + 1}), width="stretch"
    )


def run(loaded: Sequence[Loaded], *, box: DeltaGenerator | None = None) -> Loaded:
    """Let the user choose a run; pages share the choice, and several runs put it in the address."""
    by_token = {one.token: one for one in loaded}
    last = st.session_state.get(_LAST_RUN)
    if len(loaded) > 1 and st.query_params.get("run") not in by_token:
        put(run=last if last in by_token else loaded[0].token)
    chosen = choice("run", list(by_token))
    widget = _follow("run", chosen)
    (box or st).selectbox(
        "Run",
        list(by_token),
        format_func=lambda token: by_token[token].name,
        key=widget,
        on_change=lambda: put(run=st.session_state[widget]),
    )
    st.session_state[_LAST_RUN] = chosen
    return by_token[chosen]


def register(pages: Mapping[str, Any]) -> None:
    """Tell `link` the pages of the dashboard: path in the address -> Streamlit's page."""
    st.session_state[_PAGES] = dict(pages)


def link(
    page: str,
    label: str,
    *,
    box: DeltaGenerator | None = None,
    icon: str | None = None,
    help: str | None = None,
    **state: object,
) -> None:
    """A link to a page in a given state; `label` is Markdown."""
    query = {key: str(value) for key, value in state.items() if value is not None}
    (box or st).page_link(
        st.session_state[_PAGES][page], label=label, icon=icon, help=help, query_params=query
    )


def _follow(key: str, value: object) -> str:
    """Bring the widget of `key` to the address's value, and give its name."""
    widget = f"widget of {key}"
    if st.session_state.get(widget, ...) != value:
        st.session_state[widget] = value
    return widget


def _ends(text: str, low: int, high: int) -> tuple[int, int]:
    parts = text.split(SEPARATOR)
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        return low, high
    first, last = sorted(min(max(int(part), low), high) for part in parts)
    return first, last
