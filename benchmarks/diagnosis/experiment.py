"""Plant a fault, diagnose the model, and compare the findings with the fault."""

import copy
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch

from benchmarks.diagnosis.cases import Case
from benchmarks.diagnosis.colored_shapes import write_coco
from benchmarks.diagnosis.fault import AnnotationFault, ModelFault
from benchmarks.diagnosis.faults import FAULTS
from benchmarks.diagnosis.healthy import Images
from mpdiag.analysis.mask2former_adapter import Mask2FormerAdapter
from mpdiag.analysis.measure import Measurer
from mpdiag.analysis.options import AnalysisOptions
from mpdiag.analysis.settings import AnalysisSettings
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.data import SegmentationDataset, load_dataset
from mpdiag.evaluation import build_evaluator
from mpdiag.store.files import append
from mpdiag.untrusted import read_text

FINDINGS_KEPT = 5

Diagnosis = Mapping[str, Any]
"""What `mpdiag diagnose --json` writes."""
Diagnose = Callable[[LoadedCheckpoint, SegmentationDataset, Path], Diagnosis]


class HealthySource(Protocol):
    """Source of a healthy model, and of images by seed."""

    def model(self) -> LoadedCheckpoint: ...

    def images(self, seed: int) -> Images: ...


@dataclass(frozen=True, slots=True)
class CaseResult:
    """A diagnosis compared with the planted fault.

    Attributes:
        case: name of the case.
        half, fault, severity, seed: those of the case.
        cause: cause that must be found; None for the healthy model.
        ap_healthy: AP of the healthy model with correct annotations.
        ap: AP with the fault.
        rank: position of the cause among the findings, from 1; None if it is missing.
        at_stake: AP that the finding says it costs; None if it is missing.
        findings: cause and AP at stake of the first findings.
        num_findings: number of findings.
        seconds: time of the diagnosis.
    """

    case: str
    half: str
    fault: str | None
    severity: float
    seed: int
    cause: str | None
    ap_healthy: float
    ap: float
    rank: int | None
    at_stake: float | None
    findings: Sequence[tuple[str, float]]
    num_findings: int
    seconds: float

    @property
    def cost(self) -> float:
        """AP that the fault costs, which removing it gains."""
        return self.ap_healthy - self.ap

    @classmethod
    def compare(
        cls, case: Case, ap_healthy: float, ap: float, diagnosis: Diagnosis, seconds: float
    ) -> Self:
        """Compare the findings of a diagnosis with the fault of its case."""
        cause = FAULTS[case.fault].cause if case.fault else None
        findings = [(str(one["cause"]), float(one["at_stake"])) for one in diagnosis["findings"]]
        ranks = [rank for rank, (found, _) in enumerate(findings, start=1) if found == cause]
        rank = ranks[0] if ranks else None
        return cls(
            case=case.name,
            half=case.half,
            fault=case.fault,
            severity=case.severity,
            seed=case.seed,
            cause=cause,
            ap_healthy=ap_healthy,
            ap=ap,
            rank=rank,
            at_stake=findings[rank - 1][1] if rank else None,
            findings=findings[:FINDINGS_KEPT],
            num_findings=len(findings),
            seconds=seconds,
        )


class Experiment:
    """Run cases and keep their results in a file of JSON lines.

    Attributes:
        results: the results file; cases in it are not run again.
    """

    def __init__(self, source: HealthySource, directory: Path, diagnose: Diagnose) -> None:
        """Set up an experiment.

        Args:
            source: healthy model and images.
            directory: directory of the results and of scratch files.
            diagnose: diagnoses a model on a data set; gets a directory for its files.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.results = directory / "results.jsonl"
        self._scratch = directory / "scratch"
        self._diagnose = diagnose
        self._model = lru_cache(maxsize=None)(source.model)
        self._images = lru_cache(maxsize=4)(source.images)
        self._healthy_ap = lru_cache(maxsize=None)(self._measure_healthy)

    def run(self, cases: Sequence[Case]) -> Iterator[CaseResult]:
        """Yield the result of each case, in order."""
        finished = {result.case: result for result in read_results(self.results)}
        for case in cases:
            if case.name not in finished:
                finished[case.name] = self.run_case(case)
                line = json.dumps(asdict(finished[case.name]), allow_nan=False) + "\n"
                append(self.results, line.encode())
            yield finished[case.name]

    def run_case(self, case: Case) -> CaseResult:
        """Plant the fault of a case, diagnose, and compare."""
        scratch = self._scratch / case.name
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            loaded, data = self.plant(case, scratch)
            ap = average_precision(loaded, data)
            start = time.perf_counter()
            diagnosis = self._diagnose(loaded, data, scratch / "diagnosis")
            seconds = round(time.perf_counter() - start, 1)
            healthy = self._healthy_ap(Case(case.half, None, 0, case.seed))
            return CaseResult.compare(case, healthy, ap, diagnosis, seconds)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def plant(self, case: Case, directory: Path) -> tuple[LoadedCheckpoint, SegmentationDataset]:
        """Return copies of the healthy model and of its data set, with the fault of the case."""
        loaded, images = copy.deepcopy(self._model()), self._images(case.seed)
        content = images.content
        fault = FAULTS[case.fault] if case.fault else None
        generator = np.random.default_rng(_seed_of(case))
        if isinstance(fault, ModelFault):
            fault.plant(loaded, case.severity, generator)
            loaded.sha256 = hashlib.sha256(case.name.encode()).hexdigest()
        elif isinstance(fault, AnnotationFault):
            content = copy.deepcopy(content)
            fault.plant(content, case.severity, generator)
        annotations = write_coco(directory / "annotations.json", content)
        return loaded, load_dataset(str(annotations), root=images.folder)

    def _measure_healthy(self, healthy: Case) -> float:
        directory = self._scratch / healthy.name
        try:
            return average_precision(*self.plant(healthy, directory))
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def average_precision(loaded: LoadedCheckpoint, data: SegmentationDataset) -> float:
    """Return the AP of the last layer as a fraction."""
    adapter = Mask2FormerAdapter(loaded, data)
    settings = AnalysisSettings.derive(adapter.info.settings, AnalysisOptions())
    evaluator = build_evaluator(data)
    samples = (data[index] for index in range(len(data)))
    with torch.inference_mode():
        for index, image in enumerate(Measurer(adapter, settings, evaluator).measure([samples])):
            found = image.detections[max(image.detections)]
            evaluator.update(data.image_ids[index], found, data.ground_truth(index))
    return evaluator.scores()["ap"] or 0.0


def read_results(path: Path) -> list[CaseResult]:
    """Return the results in a file of JSON lines; none if there is no file."""
    if not path.is_file():
        return []
    return [CaseResult(**json.loads(line)) for line in read_text(path).splitlines()]


def _seed_of(case: Case) -> list[int]:
    """Return the seed of a fault's draws: another one for each fault, level and seed."""
    return [case.seed, case.level, *(case.fault or "").encode()]
