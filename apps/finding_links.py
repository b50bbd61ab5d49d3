"""Links between a finding of the diagnosis and its images in the Inspector."""

from typing import Any

import streamlit as st

from apps import url_state
from apps.formatting import escape_markdown
from apps.runs import LoadedRun, cached
from mpdiag.store.causes import CAUSES
from mpdiag.store.diagnosis import FILE_NAME, Diagnosis, Finding

MAX_IMAGES = 6


def show_finding_images(
    loaded: LoadedRun, place: int, finding: Finding, current: int | None = None
) -> None:
    """Link to the first images of a finding, in the Inspector with its query and layer.

    `place` counts the findings from 1; `current` is the image that the page shows.
    """
    state: dict[str, Any] = {
        "query": finding.queries[0] if finding.queries else None,
        "layer": next((layer for layer in finding.layers if layer > 0), None),
        "run": loaded.slug,
        "finding": place,
    }
    links = st.container(horizontal=True, gap="small")
    listed = finding.evidence.get("images")
    ids = [x for x in listed if type(x) is int] if isinstance(listed, list) else []
    for image, name in _file_names(loaded, tuple(ids[:MAX_IMAGES])).items():
        url_state.page_link(
            "inspector",
            escape_markdown(name),
            container=links,
            icon=":material/visibility:" if image == current else ":material/layers:",
            image=image,
            **state,
        )


def show_finding_of_url(loaded: LoadedRun, image: int) -> None:
    """If the URL names a finding, show its title, its images and a link back to the diagnosis.

    Raises:
        RunError: the diagnosis is invalid.
    """
    place = url_state.get_int("finding")
    path = loaded.run.path / FILE_NAME
    if place is None or not path.exists():
        return
    findings = Diagnosis.read(path).findings
    if not 1 <= place <= len(findings):
        return
    finding = findings[place - 1]
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"Finding {place}: **{CAUSES[finding.cause].title}**", width="content")
            url_state.page_link(
                "diagnosis", "Back to the diagnosis", icon=":material/arrow_back:", run=loaded.slug
            )
        show_finding_images(loaded, place, finding, image)


@cached
def _file_names(loaded: LoadedRun, images: tuple[int, ...]) -> dict[int, str]:
    """Return the file names of those of the images that are in the run, in the same order."""
    found = loaded.run.query(
        "SELECT image_id, file_name FROM images WHERE list_contains(?::BIGINT[], image_id)",
        [list(images)],
    )
    names = dict(zip(found["image_id"].tolist(), found["file_name"].map(str), strict=True))
    return {image: names[image] for image in images if image in names}
