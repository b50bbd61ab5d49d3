"""Keep the state of each page in its URL, so that a copied link restores the same view.

The URL is the source of truth and widgets follow it: a widget's callback writes its value to the
URL, then the page runs again. Default values are not written. URLs are untrusted: a value counts
only if it is one of the options that the page offers, otherwise the page uses its default.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from apps.runs import LoadedRun

T = TypeVar("T")
_PAGES = "registered pages"
_CURRENT = "current page"
_LAST_RUN = "last run"
_OF_RUN = ("finding", "page", "class")  # numbers that mean something else in another run
SEPARATOR = "~"
MAX_DIGITS = 19  # of 64-bit integers


def get_option(key: str, options: Sequence[T], default: T | None = None) -> T:
    """Return the option that the URL has under `key`, else `default`, else the first option."""
    value = st.query_params.get(key)
    fallback = options[0] if default is None else default
    return next((option for option in options if str(option) == value), fallback)


def get_int(key: str) -> int | None:
    """Return the 64-bit integer that the URL has under `key`. The page must check it."""
    return _parse_int(st.query_params.get(key, ""))


def update(**state: object) -> None:
    """Write values to the URL as one step of the browser history; None removes a key."""
    before = st.query_params.to_dict()
    merged = {**before, **{key: str(value) for key, value in state.items() if value is not None}}
    after = {key: text for key, text in merged.items() if state.get(key, text) is not None}
    if after != before:
        st.query_params.from_dict(after)


def selectbox(
    label: str,
    key: str,
    options: Sequence[T],
    *,
    container: DeltaGenerator | None = None,
    default: T | None = None,
    resets: Sequence[str] = (),
    format_func: Callable[[T], str] = str,
    **settings: Any,
) -> T:
    """Show `st.selectbox` for the URL key `key`; a change removes the keys `resets`."""
    value = get_option(key, options, default)
    fallback = options[0] if default is None else default
    binding = _bind(key, value, lambda chosen: None if chosen == fallback else chosen, resets)
    labels = _unique_labels(options, format_func)
    (container or st).selectbox(
        label, options, format_func=labels.__getitem__, **binding, **settings
    )
    return value


def multiselect(
    label: str,
    key: str,
    options: Sequence[T],
    *,
    container: DeltaGenerator | None = None,
    default: Sequence[T] = (),
    resets: Sequence[str] = (),
    format_func: Callable[[T], str] = str,
    **settings: Any,
) -> list[T]:
    """Show `st.multiselect` for the URL key `key`; an empty selection means `default`."""
    parts = st.query_params.get(key, "").split(SEPARATOR)
    value = [option for option in options if str(option) in parts] or list(default)

    def encode(chosen: list[T]) -> str | None:
        return None if chosen in ([], list(default)) else SEPARATOR.join(map(str, chosen))

    labels = _unique_labels(options, format_func)
    binding = _bind(key, value, encode, resets)
    (container or st).multiselect(
        label, options, format_func=labels.__getitem__, **binding, **settings
    )
    return value


def range_slider(
    label: str,
    key: str,
    low: int,
    high: int,
    *,
    container: DeltaGenerator | None = None,
    resets: Sequence[str] = (),
    **settings: Any,
) -> tuple[int, int]:
    """Show a slider with two ends for the URL key `key`; the full range is the default."""
    value = _parse_range(st.query_params.get(key, ""), low, high)

    def encode(ends: Sequence[int]) -> str | None:
        return None if tuple(ends) == (low, high) else SEPARATOR.join(map(str, ends))

    (container or st).slider(label, low, high, **_bind(key, value, encode, resets), **settings)
    return value


def toggle(
    label: str,
    key: str,
    *,
    default: bool = False,
    container: DeltaGenerator | None = None,
    help: str | None = None,
) -> bool:
    """Show `st.toggle` for the URL key `key`, stored as 1 or 0."""
    value = get_option(key, [int(default), int(not default)]) == 1
    binding = _bind(key, value, lambda chosen: None if chosen == default else int(chosen))
    (container or st).toggle(label, help=help, **binding)
    return value


def pagination(key: str, page: int, pages: int) -> None:
    """Show buttons to the previous and next of `pages` pages; nothing for a single page."""
    if pages <= 1:
        return
    with st.container(
        horizontal=True, horizontal_alignment="center", vertical_alignment="center", gap="medium"
    ):
        st.button("Previous", disabled=page == 1, on_click=lambda: update(**{key: page - 1}))
        st.caption(f"Page {page:,} of {pages:,}", width="content")
        st.button("Next", disabled=page == pages, on_click=lambda: update(**{key: page + 1}))


def select_run(runs: Sequence[LoadedRun], *, container: DeltaGenerator | None = None) -> LoadedRun:
    """Show a select box of the runs and return the selected one.

    All pages share the selection. With several runs the URL always names one. A change removes the
    keys whose values belong to the run.
    """
    by_slug = {loaded.slug: loaded for loaded in runs}
    last = st.session_state.get(_LAST_RUN)
    if len(runs) > 1 and st.query_params.get("run") not in by_slug:
        update(run=last if last in by_slug else runs[0].slug)
    value = get_option("run", list(by_slug))
    (container or st).selectbox(
        "Run",
        list(by_slug),
        format_func=lambda slug: by_slug[slug].name,
        **_bind("run", value, lambda slug: slug, _OF_RUN),
    )
    st.session_state[_LAST_RUN] = value
    return by_slug[value]


def register_pages(pages: Mapping[str, Any], current: str) -> None:
    """Register the dashboard's pages for `page_link`: URL path -> Streamlit page."""
    st.session_state[_PAGES] = dict(pages)
    st.session_state[_CURRENT] = current


def page_link(
    page: str,
    label: str,
    *,
    container: DeltaGenerator | None = None,
    icon: str | None = None,
    help: str | None = None,
    **state: object,
) -> None:
    """Show a link to a page with the given URL state; `label` is Markdown."""
    query = {key: str(value) for key, value in state.items() if value is not None}
    target = container or st
    registered = st.session_state[_PAGES][page]
    if page != st.session_state[_CURRENT]:
        target.page_link(registered, label=label, icon=icon, help=help, query_params=query)
        return
    # A link of Streamlit to the page that is open does nothing.
    target.button(
        label,
        icon=icon or registered.icon,
        help=help,
        type="tertiary",
        key=f"link {label} {query}",
        on_click=lambda: st.query_params.from_dict(query),
    )


def _unique_labels(options: Sequence[T], format_func: Callable[[T], str]) -> dict[T, str]:
    """Return the label of each option; Streamlit finds the selected option by its label.

    Options with an equal label also get their value.
    """
    texts = [format_func(option) for option in options]
    counts = Counter(texts)
    return {
        option: text if counts[text] == 1 else f"{text} ({option})"
        for option, text in zip(options, texts, strict=True)
    }


def _bind(
    key: str, value: object, encode: Callable[[Any], object], resets: Sequence[str] = ()
) -> dict[str, Any]:
    """Set the widget of a URL key to `value`; return the arguments that bind it to the URL.

    `encode` converts the widget's value for the URL, to None for the default.
    """
    widget = f"widget-{key}"
    if st.session_state.get(widget, ...) != value:
        st.session_state[widget] = value

    def on_change() -> None:
        update(**{key: encode(st.session_state[widget])}, **dict.fromkeys(resets))

    return {"key": widget, "on_change": on_change}


def _parse_range(text: str, low: int, high: int) -> tuple[int, int]:
    """Return the part of a range that is within the limits; without one, the full range."""
    numbers = [_parse_int(part) for part in text.split(SEPARATOR)]
    ends = sorted(number for number in numbers if number is not None)
    if not len(numbers) == len(ends) == 2 or ends[0] > high or ends[1] < low:
        return low, high
    return max(ends[0], low), min(ends[1], high)


def _parse_int(text: str) -> int | None:
    digits = text.removeprefix("-")
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS
    return int(text) if is_number and -(2**63) <= int(text) < 2**63 else None
