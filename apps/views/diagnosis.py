"""Diagnosis: what costs the model AP, PQ or mIoU, and the main results of the run in words."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from apps import components, url_state
from apps.finding_links import show_finding_images
from apps.formatting import escape_markdown
from apps.runs import LoadedRun, cached
from mpdiag.printable import printable
from mpdiag.store import Run
from mpdiag.store.causes import CAUSES
from mpdiag.store.diagnosis import FILE_NAME, Diagnosis, Finding, points
from reports.diagnosis import finding_facts, layer_scores_table
from reports.document import Highlight
from reports.findings import find_highlights, util_by_class
from reports.names import class_names
from reports.palette import RUN_COLORS

BAR_HEIGHT = 34
MAX_FACTS = 20
"""Number of facts of a finding: the file is untrusted."""
CLEARANCE = 90  # of the axis, in pixels


def render(runs: Sequence[LoadedRun]) -> None:
    """Render the page."""
    components.page_header("Diagnosis", "What lowers the score, how much, and what to change.")
    loaded = url_state.select_run(runs, container=st.columns([2, 3])[0])
    path = loaded.run.path / FILE_NAME
    if path.exists():
        _show_diagnosis(loaded, Diagnosis.read(path))
    else:
        _show_commands(loaded.run)
    _show_highlights(loaded)
    url_state.page_link("overview", "All layers as curves and tables", icon=":material/show_chart:")


def _show_commands(run: Run) -> None:
    """Show the commands that make a diagnosis of this run."""
    if run.header.get("part") != "matching":
        components.show_empty("A diagnosis is made from a run of the matching part.")
        return
    path, checkpoint = shlex.quote(str(run.path)), run.header["checkpoint"].get("path")
    found = isinstance(checkpoint, str) and checkpoint.isprintable() and Path(checkpoint).exists()
    model = shlex.quote(checkpoint) if found else "CHECKPOINT"
    file = run.header["dataset"].get("annotation_file")
    data = "" if str(file).endswith(".json") else " --dataset DATASET"
    has_detections = not run.query("SELECT image_id FROM detections LIMIT 1").empty
    commands = [f"mpdiag diagnose {model} --run {path}{data}"]
    text = "The command runs the model and makes one."
    if run.header.get("task") == "instance" and has_detections:
        commands.insert(0, f"mpdiag diagnose {path}{data}")
        text = (
            "The first command makes one from the run; the second also runs the model and tests "
            "more causes."
        )
    components.show_empty(f"This run has no diagnosis. {text} Then reload this page.")
    st.code("\n".join(commands), language="bash", wrap_lines=True)


def _show_highlights(loaded: LoadedRun) -> None:
    highlights = _highlights(loaded)
    if highlights:
        st.header("The run in words", anchor=False)
        st.markdown("\n".join(f"- {_sentence(highlight)}" for highlight in highlights))


def _sentence(highlight: Highlight) -> str:
    result = f"{highlight.label}: {highlight.value}" if highlight.value else highlight.label
    return f"**{escape_markdown(result)}**, {escape_markdown(highlight.text)}"


def _show_diagnosis(loaded: LoadedRun, diagnosis: Diagnosis) -> None:
    score = diagnosis.score_label
    st.markdown(
        f"**{score} {100 * diagnosis.score:.1f}** on {diagnosis.num_images:,} images. "
        f"{diagnosis.summary}"
    )
    if diagnosis.findings:
        components.figure(_chart(diagnosis.findings, score), f"{loaded.slug} {score} at stake")
        st.caption(
            f"{score} that the remedy of a cause gains, after the remedies of the causes above it, "
            "with the 95% interval over resampled images."
        )
        st.header("Findings", anchor=False)
    for place, finding in enumerate(diagnosis.findings, start=1):
        _show_finding(loaded, place, finding, diagnosis)
    table = layer_scores_table(diagnosis.layers)
    if table.rows:
        st.header("Layers", anchor=False)
        cells = pd.DataFrame([row.cells for row in table.rows], columns=list(table.columns))
        components.table(cells, f"{loaded.slug} layers", "layers")
        st.caption(table.note)


def _chart(findings: Sequence[Finding], score: str) -> go.Figure:
    """Draw what is at stake in each finding, the first one on top."""
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
        hovertemplate=f"%{{y}}: %{{x:.1f}} {score}<extra></extra>",
    )
    chart = go.Figure(bars)
    chart.update_layout(height=BAR_HEIGHT * len(findings) + CLEARANCE)
    chart.update_xaxes(title=f"{score} at stake", rangemode="tozero")
    chart.update_yaxes(autorange="reversed", automargin=True)
    return chart


def _show_finding(loaded: LoadedRun, place: int, finding: Finding, diagnosis: Diagnosis) -> None:
    cause, score = CAUSES[finding.cause], diagnosis.score_label
    classes = diagnosis.class_names or class_names(loaded.run)
    with st.container(border=True):
        text, value = st.columns([4, 1])
        text.subheader(f"{place}. {cause.title}", anchor=False)
        text.markdown(f"{cause.remedy} [How it is measured]({cause.link})")
        value.metric(f"{score} at stake", points(finding.at_stake))
        value.caption(" to ".join(map(points, finding.interval)))
        facts = [
            escape_markdown(f"{printable(label, 200)}: {printable(fact, 2000)}")
            for label, fact in finding_facts(finding, classes, score)
            if label not in ("Images", f"{score} at stake")
        ]
        text.caption("  \n".join(facts[:MAX_FACTS]))
        show_finding_images(loaded, place, finding)


@cached
def _highlights(loaded: LoadedRun) -> list[Highlight]:
    return list(find_highlights(loaded.run, util_by_class(loaded.run)))
