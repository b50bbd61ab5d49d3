"""The findings page: highlights computed independently, pictures, tables."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mpdiag.errors import ConfigError, RunError
from mpdiag.store import LAYER_METRICS, Run
from reports import write_findings
from reports.findings import build_findings

MakeRun = Callable[..., Path]


def test_highlights_of_the_summary(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run", images=12)
    run = Run.open(path)
    summary = json.loads((path / "summary.json").read_text())
    findings = {one.label: one for one in build_findings(run).sections[0].highlights}
    inner = summary["layers"][:-1]
    by_util = min(inner, key=lambda layer: layer["util"])
    assert findings["Lowest Util"].value == f"{100 * by_util['util']:.1f}%"
    assert findings["Lowest Util"].text == f"layer {by_util['layer']}"
    by_iou = min(summary["layers"], key=lambda layer: layer["miou_l"])
    assert findings["Lowest mIoU-L"].value == f"{100 * by_iou['miou_l']:.1f}%"
    matches = summary["query_use"]["matches"]
    assert findings["Unmatched queries"].value == f"{matches.count(0)} of {len(matches)}"
    moves = run.transitions()
    counts = moves[moves["transition"] != "kept"].groupby("transition")["count"].sum()
    assert findings["Most common transition"].text.startswith(str(counts.idxmax()))
    lowest = findings["Lowest Util by class"].value
    values = [float(value) for value in re.findall(r"([\d.]+)%", lowest)]
    assert values == sorted(values) and 1 <= len(values) <= 3  # the run has three classes


def test_lowest_util_by_class_of_the_rows(tmp_path: Path, make_run: MakeRun) -> None:
    """Util averages images with objects of the class, then layers 1..L-1."""
    run = Run.open(make_run(tmp_path / "run", images=12))
    rows = run.query("SELECT image_id, label, matched_query FROM targets").to_dict("records")
    names = [info["name"] for info in run.header["classes"]]
    means = {}
    for label, name in enumerate(names):
        own = [row for row in rows if row["label"] == label]
        layers = []
        for layer in range(1, run.num_layers):
            images: dict[int, list[bool]] = {}
            for row in own:
                query = row["matched_query"]
                images.setdefault(row["image_id"], []).append(query[layer] == query[-1])
            layers.append(sum(sum(x) / len(x) for x in images.values()) / len(images))
        means[name] = sum(layers) / len(layers)
    order = sorted(means, key=lambda name: (means[name], name))
    expected = ", ".join(f"{name} {100 * means[name]:.1f}%" for name in order)
    findings = {one.label: one for one in build_findings(run).sections[0].highlights}
    assert findings["Lowest Util by class"].value == expected


def test_page_is_one_deterministic_file(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    path = make_run(tmp_path / "run", images=12, name="<b>Run</b>")
    (page,) = write_findings([path], tmp_path / "report")
    text = page.read_text()
    assert list((tmp_path / "report").iterdir()) == [page] and page.name == "findings.html"
    assert text.index("Findings") < text.index("Masks that change most") < text.index(">Tables")
    assert text.count("data:image/jpeg") == text.count("<img") == 10
    assert all(f"<th>{metric.label}</th>" in text for metric in LAYER_METRICS.values())
    assert "http" not in text.replace("http-equiv", "") and "<b>Run" not in text
    assert write_findings([path], tmp_path / "again")[0].read_bytes() == page.read_bytes()


def test_run_of_one_layer(tmp_path: Path, make_run: MakeRun) -> None:
    """No layer comes before the last one, in which Util is 100% by definition."""
    run = Run.open(make_run(tmp_path / "run", images=8, layers=1))
    labels = [one.label for one in build_findings(run).sections[0].highlights]
    assert "Lowest mIoU-L" in labels and not [x for x in labels if x.startswith("Lowest Util")]


@pytest.mark.parametrize("part", ["matching", "piloted"])  # then there is no query, either
def test_run_without_objects(tmp_path: Path, make_run: MakeRun, part: str) -> None:
    (page,) = write_findings([make_run(tmp_path / "run", images=1, part=part)], tmp_path / "report")
    assert "Lowest Util by class" not in page.read_text()


def test_run_whose_header_lists_no_classes(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run", images=8)
    whole = {section.title: section for section in build_findings(Run.open(path)).sections}
    header = json.loads((path / "run.json").read_text())
    del header["classes"]
    (path / "run.json").write_text(json.dumps(header))
    sections = {section.title: section for section in build_findings(Run.open(path)).sections}
    lost = set(whole["Findings"].highlights) - set(sections["Findings"].highlights)
    assert [one.label for one in lost] == ["Lowest Util by class"]
    titles = [[table.title for table in found["Tables"].tables] for found in (whole, sections)]
    assert sorted([*titles[1], "Util by class"]) == sorted(titles[0])


def test_several_runs_or_an_unfinished_one(tmp_path: Path, make_run: MakeRun) -> None:
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", finish=False)
    with pytest.raises(ConfigError, match="takes one run"):
        write_findings([first, second], tmp_path / "report")
    with pytest.raises(RunError, match="unfinished"):
        write_findings([second], tmp_path / "report")
    assert not (tmp_path / "report").exists()
