"""The benchmark of the diagnosis: a perfect diagnosis scores 100%, a wrong one 0%."""

import json
import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.diagnosis import healthy
from benchmarks.diagnosis import run as benchmark
from benchmarks.diagnosis.cases import HALVES, Case, list_cases
from benchmarks.diagnosis.colored_shapes import (
    COLOR_SHARE,
    COLORS,
    color_object,
    generate_colored_shapes,
    write_coco,
)
from benchmarks.diagnosis.experiment import CaseResult, Experiment
from benchmarks.diagnosis.faults import FAULTS
from benchmarks.diagnosis.table import goals, markdown_report, replace_report
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.cli import main
from mpdiag.config import BackboneConfig, ModelConfig, TrainConfig
from mpdiag.data import SegmentationDataset
from mpdiag.errors import ConfigError
from mpdiag.models import Mask2Former
from mpdiag.untrusted import read_json


class Source:
    """A small random model and a few images."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        torch.manual_seed(0)
        config = ModelConfig(
            num_classes=7,
            backbone=BackboneConfig(name="resnet18", channels=(8, 8, 16, 16), stem_channels=8),
            hidden_dim=32,
            mask_dim=16,
            num_heads=4,
            encoder_layers=1,
            encoder_feedforward_dim=32,
            decoder_layers=2,
            feedforward_dim=32,
            num_queries=6,
        )
        model = Mask2Former(config).eval()
        recipe = TrainConfig(model=config)
        self.loaded = LoadedCheckpoint(Path("m.pth"), "module", "0" * 64, model, recipe=recipe)

    def model(self) -> LoadedCheckpoint:
        return self.loaded

    def images(self, seed: int) -> healthy.Images:
        folder = generate_colored_shapes(self.directory / str(seed), train=1, val=2, seed=seed)
        return healthy.Images(
            folder / "val", read_json(folder / "annotations" / "instances_val.json")
        )


def result(**changes: Any) -> CaseResult:
    """Return the result of a case that costs 10 AP and is diagnosed perfectly."""
    values = {
        "case": "x", "half": "reporting", "fault": "dead-queries", "severity": 0.2, "seed": 0,
        "cause": "dead-queries", "ap_healthy": 0.4, "ap": 0.3, "rank": 1, "at_stake": 0.1,
        "findings": [("dead-queries", 0.1)], "num_findings": 1, "seconds": 1.0,
    }  # fmt: skip
    return CaseResult(**(values | changes))


def diagnosis(*findings: tuple[str, float]) -> Mapping[str, Any]:
    return {"findings": [{"cause": cause, "at_stake": stake} for cause, stake in findings]}


def test_halves_share_no_severity_seed_or_image() -> None:
    development, reporting = (list_cases(half) for half in HALVES)
    assert len(development) == len(reporting) == 9 * len(FAULTS) + 10
    assert len({case.name for case in development + reporting}) == 2 * len(development)
    assert not {case.seed for case in development} & {case.seed for case in reporting}
    for case in development + reporting:
        if case.fault:
            place = FAULTS[case.fault].severities[HALVES.index(case.half) :: 2]
            assert case.severity == place[case.level]
    assert len(list_cases("development", quick=True)) == len(FAULTS) + 1
    assert {case.fault for case in list_cases("reporting", ["overflow", "healthy"])} == {
        "overflow",
        None,
    }
    with pytest.raises(ConfigError, match="--fault nothing: is unknown; choose from healthy"):
        list_cases("reporting", ["nothing"])


def test_a_perfect_diagnosis_meets_all_goals_and_a_wrong_one_none() -> None:
    clean = result(fault=None, cause=None, ap=0.4, rank=None, at_stake=None, findings=[],
                   num_findings=0)  # fmt: skip
    assert [goal.met for goal in goals([result(), clean])] == [True] * 4
    wrong = result(rank=None, at_stake=None, findings=[("ranking", 0.1)])
    noisy = result(fault=None, cause=None, ap=0.4, rank=None, at_stake=None, num_findings=2)
    found = goals([wrong, noisy])
    assert not any(goal.met for goal in found)
    assert found[0].measured == "0 of 1 (0%)"


def test_goals_at_their_limits() -> None:
    def met(*results: CaseResult) -> list[bool]:
        return [goal.met for goal in goals(results)]

    second = result(rank=2)
    assert met(*[result()] * 9, second)[:2] == [True, True]
    assert met(*[result()] * 8, second)[:2] == [False, True]
    assert met(*[result()] * 9, result(rank=4))[:2] == [True, False]
    cheap = result(ap=0.391, rank=None, at_stake=None)  # costs 0.9 AP and need not be found
    assert met(result(), cheap)[:3] == [True, True, True]
    assert met(result(at_stake=0.071))[2] and met(result(at_stake=0.129))[2]
    assert not met(result(at_stake=0.069))[2]
    assert met(result(ap=0.38, at_stake=0.0101))[2]  # within 1 AP


def test_comparison_with_the_fault() -> None:
    case = Case("reporting", "dead-queries", 0, 3)
    found = CaseResult.compare(
        case, 0.4, 0.3, diagnosis(("ranking", 0.2), ("dead-queries", 0.09), ("ranking", 0.01)), 1.0
    )
    assert (found.rank, found.at_stake, found.num_findings) == (2, 0.09, 3)
    assert found.cost == pytest.approx(0.1)
    missing = CaseResult.compare(case, 0.4, 0.3, diagnosis(("ranking", 0.2)), 1.0)
    assert missing.rank is None and missing.at_stake is None
    clean = CaseResult.compare(Case("reporting", None, 0, 1), 0.4, 0.4, diagnosis(), 1.0)
    assert clean.cause is None and clean.num_findings == 0


def test_report_names_failures_and_replaces_the_old_report() -> None:
    failed = result(case="overflow-mild-seed-3", fault="overflow", cause="non-finite", rank=None,
                    at_stake=None, findings=[("dead-queries", 0.1)])  # fmt: skip
    report = markdown_report([result(), failed])
    assert report.startswith("2 of the 235 cases of the reporting half.")
    assert "| dead-queries | dead-queries | 1 | 1 | 1 | 1 | 10.0 | 10.0 | 1 of 1 |" in report
    assert "| overflow-mild-seed-3 | 40.0 | 30.0 | non-finite | - | dead-queries 10.0 |" in report
    assert "| non-finite | 1 |" in report  # confused with dead-queries
    text = replace_report("# Title\n\nText.\n", report)
    assert text.startswith("# Title\n\nText.\n\n<!--") and report in text
    again = replace_report(text + "More.\n", "new\n")
    assert report not in again and "new" in again and again.endswith("-->\nMore.\n")


def test_experiment_plants_compares_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(tmp_path / "images")
    calls = []

    def oracle(
        loaded: LoadedCheckpoint, data: SegmentationDataset, directory: Path
    ) -> Mapping[str, Any]:
        calls.append((loaded.sha256, sum(len(data.ground_truth(i).labels) for i in range(2))))
        return diagnosis(("missing-labels", 0.5))

    cases = [Case("development", None, 0, 0), Case("development", "removed-objects", 2, 0),
             Case("development", "swapped-classes", 0, 0)]  # fmt: skip
    found = list(Experiment(source, tmp_path / "out", oracle).run(cases[:2]))
    assert [one.rank for one in found] == [None, 1]
    assert found[0].cost == 0
    objects = len(source.images(0).content["annotations"])
    assert [count for _, count in calls] == [objects, objects - round(0.3 * objects)]
    assert source.loaded.sha256 == calls[0][0]
    monkeypatch.setattr(benchmark, "diagnose", oracle)
    console = Console(file=StringIO(), width=200)
    results = benchmark.run_benchmark(
        source, cases, tmp_path / "out", console, tmp_path / "report.md"
    )
    assert len(calls) == 3 and calls[2][0] != calls[0][0]  # the first two are not run again
    assert [one.case for one in results] == [case.name for case in cases]
    assert "| Goal | Measured | Met |" in (tmp_path / "report.md").read_text()
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["case"] for line in lines] == [case.name for case in cases]
    assert not any((tmp_path / "out" / "scratch").iterdir())


def test_colored_shapes(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 3), 100, dtype=np.float32)
    mask = np.zeros((4, 4), dtype=bool)
    mask[1:3, 1:3] = True
    color_object(pixels, mask, 4)
    assert (pixels[~mask] == 100).all()
    assert np.allclose(pixels[mask], 100 + COLOR_SHARE * (COLORS[4] - 100))
    folder = generate_colored_shapes(tmp_path / "data", train=1, val=1, seed=3)
    before = (folder / "val" / "000001.jpg").read_bytes()
    generate_colored_shapes(tmp_path / "data", train=1, val=1, seed=3)  # colors are mixed in once
    assert (folder / "val" / "000001.jpg").read_bytes() == before


def test_given_model_draws_images_by_seed(tmp_path: Path) -> None:
    content = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(10)],
        "annotations": [{"id": number, "image_id": number // 2} for number in range(20)],
        "categories": [],
    }
    path = write_coco(tmp_path / "a.json", content)
    source = healthy.GivenModel(tmp_path / "m.pth", path, tmp_path, 3)
    first, again, other = (source.images(seed).content for seed in (0, 0, 1))
    assert first == again and first["images"] != other["images"]
    ids = [record["id"] for record in first["images"]]
    assert len(ids) == 3 and ids == sorted(ids)
    assert [one["image_id"] for one in first["annotations"]] == [x for x in ids for _ in range(2)]


def test_a_given_checkpoint_needs_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mpdiag", "bench", "diagnose", "--checkpoint", "model.pth"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert "needs --annotations FILE.json and --images FOLDER" in " ".join(
        capsys.readouterr().err.split()
    )
