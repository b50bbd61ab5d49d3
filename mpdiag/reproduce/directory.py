"""The directory of a reproduction, and the jobs that fill it.

DIR/reproduce.json                 calls of `mpdiag reproduce`, settings of the trainings
DIR/data/                          data set of the sizes that create one
DIR/trainings/NAME-seed-S/         training directories
DIR/runs/NAME-seed-S-matching/     run directories of the matching part
DIR/runs/NAME-seed-S-piloted/      run directories of the MP part, if there is one
DIR/measured/                      costs of models, IoU of noised masks, metrics of resampled images
DIR/logs/                          output of the jobs
DIR/reports/                       the report
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpdiag import untrusted
from mpdiag.config import parse
from mpdiag.errors import RunError
from mpdiag.legacy_names import upgrade_config
from mpdiag.reproduce.experiments import SeededTraining
from mpdiag.store.files import TEMPORARY_SUFFIX, replace_json
from mpdiag.store.lock import LOCK
from trainers.methods import FullTrainConfig
from trainers.output import FINAL, changed_settings

MANIFEST = "reproduce.json"
PARTS = ("matching", "piloted")


@dataclass(frozen=True, slots=True)
class Job:
    """A `mpdiag train` or `mpdiag analyze` command.

    Attributes:
        name: unique within a reproduction.
        arguments: of `mpdiag`.
        output: the directory that it writes.
    """

    name: str
    arguments: tuple[str, ...]
    output: Path

    @property
    def is_training(self) -> bool:
        """Whether it is a training; otherwise it is an analysis."""
        return self.arguments[0] == "train"

    @property
    def finished(self) -> bool:
        """Whether its output is complete."""
        if self.is_training:
            return (self.output / FINAL).is_file()
        header = read_json(self.output / "run.json")
        return bool(header.get("finished")) and (self.output / "summary.json").is_file()

    def command(self, num_processes: int = 1) -> list[str]:
        """Return the command line with this Python, with torchrun for several processes."""
        launcher: list[str] = []
        if num_processes > 1:
            torchrun = ["torch.distributed.run", "--standalone"]
            launcher = ["-m", *torchrun, f"--nproc-per-node={num_processes}"]
        return [sys.executable, *launcher, "-m", "mpdiag", *self.arguments]


@dataclass(frozen=True, slots=True)
class ReproductionDirectory:
    """The paths below DIR, and the manifest."""

    root: Path

    @property
    def data(self) -> Path:
        """Folder of the data sets that a reproduction creates."""
        return self.root / "data"

    def training(self, name: str) -> Path:
        """Return a training directory."""
        return self.root / "trainings" / name

    def run(self, name: str, part: str) -> Path:
        """Return the run directory of a part of a training's model."""
        return self.root / "runs" / f"{name}-{part}"

    def log(self, job: Job) -> Path:
        """Return the file with the output of a job."""
        return self.root / "logs" / f"{job.name}.log"

    def runs(self, training: SeededTraining) -> dict[str, Path]:
        """Return the run directory of each part of a training."""
        parts = PARTS if training.has_mp_part else PARTS[: training.has_predictions]
        return {part: self.run(training.name, part) for part in parts}

    def jobs(self, training: SeededTraining) -> list[Job]:
        """Return the training and its analyses, in order."""
        name, output = training.name, self.training(training.name)
        train = ("train", training.recipe, *training.overrides, "--output", str(output), "--resume")
        jobs = [Job(name, train, output)]
        data = training.config.data.held_out
        root = () if data.root is None else ("--root", str(data.root))
        for part, run in self.runs(training).items():
            arguments = (
                "analyze", str(output), "--dataset", data.dataset, *root,
                "--split", data.split, "--task", data.task, "--part", part,
                "--output", str(run), "--resume",
            )  # fmt: skip
            jobs.append(Job(f"{name}-{part}", arguments, run))
        return jobs

    def manifest(self) -> dict[str, Any]:
        """Return the content of reproduce.json; empty if there is none.

        Raises:
            RunError: it is damaged.
        """
        content = read_json(self.root / MANIFEST)
        calls, trainings = content.get("calls", []), content.get("trainings", {})
        if not (
            isinstance(calls, list)
            and isinstance(trainings, dict)
            and all(isinstance(entry, dict) for entry in (*calls, *trainings.values()))
        ):
            raise RunError(f"{self.root / MANIFEST}: is damaged; give another directory")
        return content

    def machines(self) -> list[str]:
        """Return the descriptions of the machines of all calls."""
        calls = self.manifest().get("calls", [])
        return list(dict.fromkeys(str(call["machine"]) for call in calls if "machine" in call))

    def seeds(self) -> list[int]:
        """Return the seeds of all registered trainings."""
        trainings = self.manifest().get("trainings", {}).values()
        seeds = [settings.get("seed") for settings in trainings]
        return sorted({seed for seed in seeds if isinstance(seed, int)})

    def registered(self, trainings: Sequence[SeededTraining]) -> list[SeededTraining]:
        """Return those of these trainings that the manifest has.

        Raises:
            RunError: there is no manifest, or it has none of them.
        """
        manifest = self.manifest()
        if not manifest:
            raise RunError(f"{self.root}: has no reproduction; give its directory as --output")
        found = [one for one in trainings if one.name in manifest.get("trainings", {})]
        if trainings and not found:
            raise RunError(
                f"{self.root}: has none of these trainings, such as {trainings[0].name}; repeat "
                "the command without --report-only to train them"
            )
        return found

    def register(
        self, size: str, trainings: Sequence[SeededTraining], call: dict[str, Any] | None
    ) -> None:
        """Add a call and its trainings to reproduce.json; `call` is None if no job is left.

        Raises:
            RunError: see `check`.
        """
        self.check(size, trainings)
        manifest = self.manifest()
        known: dict[str, Any] = manifest.get("trainings", {})
        known |= {one.name: one.config.model_dump(mode="json") for one in trainings}
        self.root.mkdir(parents=True, exist_ok=True)
        calls = [*manifest.get("calls", []), *([] if call is None else [call])]
        content = {"size": size, "calls": calls, "trainings": dict(sorted(known.items()))}
        replace_json(self.root / MANIFEST, content)

    def check(self, size: str, trainings: Sequence[SeededTraining]) -> None:
        """Check that the directory can have these trainings.

        Raises:
            RunError: the directory has other files, another size, or a training of the same name
                with other settings.
        """
        if self.root.is_file():
            raise RunError(f"{self.root}: is a file; give a directory")
        manifest = self.manifest()
        names = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        # A call that was killed at its start leaves a temporary file.
        if not manifest and names - {LOCK, MANIFEST + TEMPORARY_SUFFIX}:
            raise RunError(f"{self.root}: has other files; give an empty directory")
        if manifest and manifest.get("size") != size:
            raise RunError(
                f"{self.root}: has a reproduction at size {manifest.get('size')}; give another "
                f"directory for {size}"
            )
        known: dict[str, Any] = manifest.get("trainings", {})
        for training in trainings:
            settings = training.config.model_dump(mode="json")
            known_settings = upgrade_config(known.get(training.name, settings))
            before = parse(FullTrainConfig, known_settings, str(self.root / MANIFEST))
            changed = changed_settings(before.model_dump(mode="json"), settings)
            if changed:
                raise RunError(
                    f"{self.root}: has {training.name} with other settings "
                    f"({', '.join(changed)}); give another directory"
                )


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file; empty if it is missing or broken."""
    try:
        content = untrusted.read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
