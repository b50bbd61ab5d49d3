"""Diagnosis: what costs the model AP, and the main results of the run in words."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from apps import components, url_state
from apps.formatting import escape_markdown
from apps.runs import LoadedRun, cached
from mpdiag.errors import RunError
from mpdiag.store.causes import CAUSES
from mpdiag.store.diagnosis import FILE_NAME, Diagnosis, Finding
from reports.diagnosis import finding_facts, layer_scores_table, points, summary
from reports.document import Highlight
from reports.findings import find_highlights
from reports.names import class_names
from reports.palette import RUN_COLORS

MAX_IMAGES = 6  # links of a finding
BAR_HEIGHT = 34
CLEARANCE = 90  # of the axis, in pixels


def render(runs: Sequence[LoadedRun]) -> None:
    """Render the page."""
    components.page_header("Diagnosis", "What costs the model AP, how much, and what to change.")
    loaded = url_state.select_run(runs, container=st.columns([2, 3])[0])
    path = loaded.run.path / FILE_NAME
    if path.exists():
        _show_diagnosis(loaded, Diagnosis.read(path))
    else:
        components.show_empty(
            "This run has no diagnosis. `mpdiag diagnose RUN` makes one from the run; "
            "`mpdiag diagnose CHECKPOINT --run RUN` also runs the model and tests more causes."
        )
    _show_highlights(loaded)
    url_state.page_link("overview", "All layers as curves and tables", icon=":material/show_chart:")


def _show_highlights(loaded: LoadedRun) -> None:
    st.header("The run in words", anchor=False)
    st.markdown("\n".join(f"- {_sentence(highlight)}" for highlight in _highlights(loaded)))


def _sentence(highlight: Highlight) -> str:
    value = f": **{escape_markdown(highlight.value)}**" if highlight.value else ""
    return f"{escape_markdown(highlight.label)}, {escape_markdown(highlight.text)}{value}"


def _show_diagnosis(loaded: LoadedRun, diagnosis: Diagnosis) -> None:
    st.markdown(
        f"**AP {100 * diagnosis.score:.1f}** on {diagnosis.num_images:,} images. "
        f"{summary(diagnosis)}"
    )
    if diagnosis.findings:
        components.figure(_chart(diagnosis.findings), f"{loaded.slug} AP at stake")
        st.caption(
            "AP that the remedy of a cause gains, after the remedies of the causes above it, with "
            "the 95% interval over resampled images."
        )
    for place, finding in enumerate(diagnosis.findings, start=1):
        _show_finding(loaded, place, finding)
    table = layer_scores_table(diagnosis.layers)
    if table.rows:
        st.header("Layers", anchor=False)
        cells = pd.DataFrame([row.cells for row in table.rows], columns=list(table.columns))
        components.table(cells, f"{loaded.slug} layers")
        st.caption(table.note)


def _chart(findings: Sequence[Finding]) -> go.Figure:
    """Draw the AP at stake of each finding, the first one on top."""
    values = [100 * finding.at_stake for finding in findings]
    low, high = zip(*(finding.interval for finding in findings), strict=True)
    labels = [f"{place}. {CAUSES[one.cause].title}" for place, one in enumerate(findings, start=1)]
    bars = go.Bar(
        x=values,
        y=labels,
        orientation="h",
        marker={"color": RUN_COLORS[0]},
        error_x={
            "array": [100 * end - value for end, value in zip(high, values, strict=True)],
            "arrayminus": [value - 100 * end for end, value in zip(low, values, strict=True)],
        },
        hovertemplate="%{y}: %{x:.1f} AP<extra></extra>",
    )
    chart = go.Figure(bars)
    chart.update_layout(height=BAR_HEIGHT * len(findings) + CLEARANCE)
    chart.update_xaxes(title="AP at stake", rangemode="tozero")
    chart.update_yaxes(autorange="reversed", automargin=True)
    return chart


def _show_finding(loaded: LoadedRun, place: int, finding: Finding) -> None:
    cause = CAUSES[finding.cause]
    with st.container(border=True):
        text, value = st.columns([5, 1])
        text.markdown(f"#### {place}. {cause.title}")
        text.markdown(f"{cause.remedy} [How it is measured]({cause.link})")
        value.metric("AP at stake", points(finding.at_stake))
        facts = [
            f"{escape_markdown(label)}: {escape_markdown(fact)}"
            for label, fact in finding_facts(finding, class_names(loaded.run))
            if label != "Images"
        ]
        text.caption("  \n".join(facts))
        _show_images(loaded, finding)


def _show_images(loaded: LoadedRun, finding: Finding) -> None:
    """Link to the images of a finding in the Inspector, with its query and layer."""
    listed = finding.evidence.get("images")
    ids = [x for x in listed if type(x) is int] if isinstance(listed, list) else []
    found = loaded.run.query(
        "SELECT image_id, file_name FROM images WHERE list_contains(?::BIGINT[], image_id)",
        [ids[:MAX_IMAGES]],
    )
    names = dict(zip(found["image_id"], found["file_name"], strict=True))
    state: dict[str, Any] = {
        "query": finding.queries[0] if finding.queries else None,
        "layer": next((layer for layer in finding.layers if layer > 0), None),
        "run": loaded.slug,
    }
    for (image, name), column in zip(names.items(), st.columns(MAX_IMAGES), strict=False):
        url_state.page_link(
            "inspector",
            escape_markdown(str(name)),
            container=column,
            icon=":material/layers:",
            image=int(image),
            **state,
        )


@cached
def _highlights(loaded: LoadedRun) -> list[Highlight]:
    try:
        by_class = loaded.run.layers(by="class", resamples=1)
    except RunError:  # run.json lists no classes
        by_class = None
    return list(find_highlights(loaded.run, by_class))
