"""The page about one run: findings first, computed as by hand, then pictures, then tables."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mpdiag.errors import ConfigError, RunError
from mpdiag.store import Run
from reports import write_findings
from reports.findings import build_findings

MakeRun = Callable[..., Path]


def test_findings_are_those_of_the_summary(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run", images=12)
    run = Run.open(path)
    summary = json.loads((path / "summary.json").read_text())
    findings = {one.answer: one for one in build_findings(run).sections[0].highlights}
    inner = summary["layers"][:-1]
    by_util = min(inner, key=lambda layer: layer["util"])
    assert findings["Worst layer by Util"].measured == f"{100 * by_util['util']:.1f}%"
    assert f"layer {by_util['layer']}, Util there" in findings["Worst layer by Util"].text
    by_iou = min(summary["layers"], key=lambda layer: layer["miou_l"])
    assert findings["Worst layer by mIoU-L"].measured == f"{100 * by_iou['miou_l']:.1f}%"
    assert findings["Dead queries"].measured == str(summary["query_use"]["matches"].count(0))
    moves = run.transitions()
    counts = moves[moves["transition"] != "kept"].groupby("transition")["count"].sum()
    assert findings["Commonest transition"].text.startswith(str(counts.idxmax()))
    lowest = findings["Lowest Util"].measured
    values = [float(value) for value in re.findall(r"([\d.]+)%", lowest)]
    assert values == sorted(values) and 1 <= len(values) <= 3  # the run has three classes


def test_lowest_util_is_that_of_the_rows(tmp_path: Path, make_run: MakeRun) -> None:
    """Each class: images with objects of it weigh alike in a layer, layers 1..L-1 in the mean."""
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
    findings = {one.answer: one for one in build_findings(run).sections[0].highlights}
    assert findings["Lowest Util"].measured == expected


def test_the_page_is_one_file_and_the_same_again(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    path = make_run(tmp_path / "run", images=12, name="<b>Run</b>")
    (page,) = write_findings([path], tmp_path / "report")
    text = page.read_text()
    assert list((tmp_path / "report").iterdir()) == [page] and page.name == "findings.html"
    assert text.index("Findings") < text.index("The pairs that differ most") < text.index(">Tables")
    assert text.count("data:image/jpeg") == text.count("<img") == 10
    assert "http" not in text.replace("http-equiv", "") and "<b>Run" not in text
    assert write_findings([path], tmp_path / "again")[0].read_bytes() == page.read_bytes()


def test_a_run_without_objects_has_a_page_too(tmp_path: Path, make_run: MakeRun) -> None:
    (page,) = write_findings([make_run(tmp_path / "run", images=1)], tmp_path / "report")
    assert "Lowest Util" not in page.read_text()


def test_one_finished_run_is_asked_for(tmp_path: Path, make_run: MakeRun) -> None:
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", finish=False)
    with pytest.raises(ConfigError, match="about one run"):
        write_findings([first, second], tmp_path / "report")
    with pytest.raises(RunError, match="unfinished"):
        write_findings([second], tmp_path / "report")
    assert not (tmp_path / "report").exists()
