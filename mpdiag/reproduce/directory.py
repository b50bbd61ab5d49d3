"""Where everything of a reproduction lies, what of it is finished, and the commands for the rest.

DIR/reproduce.json                 what was asked for, when and on what; settings of each training
DIR/data/synthetic/                the data set of tiny and small, made once
DIR/trainings/NAME-seed-S/         training directories
DIR/runs/NAME-seed-S-matching/     run directories: the matching part, and where there is one
DIR/runs/NAME-seed-S-piloted/      the MP part
DIR/measured/                      costs of models, noise of masks
DIR/logs/                          what the steps said
DIR/reports/                       the tables
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpdiag.errors import RunError
from mpdiag.reproduce.experiments import SeededTraining
from mpdiag.store.files import replace_json
from trainers.output import FINAL, difference

MANIFEST = "reproduce.json"
PARTS = ("matching", "piloted")


@dataclass(frozen=True, slots=True)
class Job:
    """A command whose result is kept.

    Attributes:
        name: unique within a reproduction.
        words: of the command, without `mpdiag`.
        output: the directory that it writes.
    """

    name: str
    words: tuple[str, ...]
    output: Path

    @property
    def trains(self) -> bool:
        """Whether it is a training, else an analysis."""
        return self.words[0] == "train"

    @property
    def finished(self) -> bool:
        """Whether its result is there in full."""
        if self.trains:
            return (self.output / FINAL).is_file()
        header = read_json(self.output / "run.json")
        return bool(header.get("finished")) and (self.output / "summary.json").is_file()


@dataclass(frozen=True, slots=True)
class ReproductionDirectory:
    """The directories below DIR."""

    root: Path

    @property
    def data(self) -> Path:
        """Folder that holds the synthetic data set."""
        return self.root / "data"

    def training(self, key: str) -> Path:
        """A training directory."""
        return self.root / "trainings" / key

    def run(self, key: str, part: str) -> Path:
        """The run directory of a part of a training's model."""
        return self.root / "runs" / f"{key}-{part}"

    def log(self, step: Job) -> Path:
        """What a step said."""
        return self.root / "logs" / f"{step.name}.log"

    def steps(self, trained: SeededTraining) -> list[Job]:
        """Training and analyses in their order."""
        directory = self.training(trained.key)
        train = ("train", *trained.command, "--output", str(directory), "--resume")
        steps = [Job(trained.key, train, directory)]
        config = trained.config.data
        where = () if config.root is None else ("--root", str(config.root))
        for part in PARTS if trained.piloted else PARTS[:1]:
            run = self.run(trained.key, part)
            words = (
                "analyze", str(directory), "--dataset", config.dataset, *where,
                "--split", config.val_split, "--task", config.task, "--part", part,
                "--output", str(run), "--resume",
            )  # fmt: skip
            steps.append(Job(f"{trained.key}-{part}", words, run))
        return steps

    def manifest(self) -> dict[str, Any]:
        """Content of reproduce.json; empty where there is none."""
        return read_json(self.root / MANIFEST)

    def machines(self) -> list[str]:
        """On what the calls so far have trained and analysed, in words."""
        calls = self.manifest().get("calls", [])
        return list(dict.fromkeys(str(call["machine"]) for call in calls))

    def register(
        self, size: str, trainings: Sequence[SeededTraining], call: dict[str, Any] | None
    ) -> None:
        """Note in reproduce.json what is asked for now; `call` is None where nothing is to be done.

        Raises:
            RunError: the directory holds other files, another size, or a training of this name with
                other settings.
        """
        if self.root.is_file():
            raise RunError(f"{self.root} is a file: give a directory")
        held = self.manifest()
        if not held and self.root.is_dir() and any(self.root.iterdir()):
            raise RunError(f"{self.root} holds other files: give an empty directory")
        if held and held.get("size") != size:
            raise RunError(
                f"{self.root} holds a reproduction at size {held.get('size')}: give another "
                f"directory for {size}"
            )
        known: dict[str, Any] = held.get("trainings", {})
        for trained in trainings:
            wanted = trained.config.model_dump(mode="json")
            changed = difference(known.setdefault(trained.key, wanted), wanted)
            if changed:
                raise RunError(
                    f"{self.root} holds {trained.key} with other settings ({', '.join(changed)}): "
                    "give another directory"
                )
        self.root.mkdir(parents=True, exist_ok=True)
        calls = [*held.get("calls", []), *([] if call is None else [call])]
        content = {"size": size, "calls": calls, "trainings": dict(sorted(known.items()))}
        replace_json(self.root / MANIFEST, content)


def command(step: Job, processes: int = 1) -> list[str]:
    """The command line of a step in this Python; of several processes by torchrun."""
    if processes > 1:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        return [sys.executable, "-m", *launcher, "-m", "mpdiag", *step.words]
    return [sys.executable, "-m", "mpdiag", *step.words]


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file; empty where it is missing or broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
