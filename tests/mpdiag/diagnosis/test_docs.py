"""The pages Diagnosis and Planted faults describe every cause, measurement and fault."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

from benchmarks.diagnosis.faults import FAULTS
from mpdiag.diagnosis.collect import Collector
from mpdiag.diagnosis.evidence import Evidence
from mpdiag.diagnosis.layer_scores import layer_scores
from mpdiag.diagnosis.model_measures import add_measures
from mpdiag.diagnosis.search import Search
from mpdiag.store.causes import CAUSES, DOCS
from mpdiag.store.diagnosis import SCORES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "diagnosis.md").read_text(encoding="utf-8")
FAULTS_PAGE = (ROOT / "docs" / "planted-faults.md").read_text(encoding="utf-8")


def _section(heading: str, page: str = PAGE) -> str:
    return page.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def _keys(heading: str) -> set[str]:
    rows = [line.split("|")[1] for line in _section(heading).splitlines() if line.startswith("| `")]
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


def test_every_cause_is_described_in_the_order_of_preference() -> None:
    section = _section("Causes")
    assert re.findall(r"^### (\S+)$", section, re.MULTILINE) == list(CAUSES)
    overview = re.findall(r"^\| \[([\w-]+)\]\(#([\w-]+)\) \|", section, re.MULTILINE)
    assert overview == [(name, name) for name in CAUSES]


def test_every_cause_has_a_symptom() -> None:
    page = (ROOT / "docs" / "how-to" / "symptoms.md").read_text(encoding="utf-8")
    links = re.findall(r"\[([a-z-]+)\]\(\.\./diagnosis\.md#([\w-]+)\)", page)
    assert all(name == anchor for name, anchor in links)
    assert {name for name, _ in links} == set(CAUSES)


def test_every_cause_says_what_to_do() -> None:
    parts = _section("Causes").split("\n### ")[1:]
    documented = {part.split("\n")[0]: part.split("\n\nWhat to do: ")[1].split() for part in parts}
    assert documented == {cause.name: cause.remedy.split() for cause in CAUSES.values()}


def test_links_are_those_of_the_repository() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"{project['urls']['Repository']}/blob/main/docs/diagnosis.md" == DOCS


def test_every_measurement_is_described(
    make_evidence: Callable[..., Evidence], collector: Collector
) -> None:
    evidence = collector.collect(every_layer=True)
    found = Search(evidence, 2.0).run()
    diagnosis = add_measures(found, collector, evidence, {})
    assert diagnosis.findings == found.findings
    measured = set(layer_scores(make_evidence(2))[0]) | set(diagnosis.layers[-1])
    assert measured - {"layer"} | set(SCORES) == _keys("Scores of layers")
    assert set(diagnosis.evidence) == _keys("Evidence")
    assert set(diagnosis.as_json()) == _keys("diagnosis.json") - {
        "name", "value", "cause", "at_stake", "interval", "classes", "queries", "remedy",
        "confidence", "layer", "ap",
    }  # fmt: skip


def test_every_planted_fault_is_described() -> None:
    rows = [
        line for line in _section("Faults", FAULTS_PAGE).splitlines()
        if line.startswith("| ") and "](" in line
    ]  # fmt: skip
    described = [re.findall(r"\]\(diagnosis\.md#([\w-]+)\)", row)[0] for row in rows]
    assert sorted(described) == sorted(fault.cause for fault in FAULTS.values())
