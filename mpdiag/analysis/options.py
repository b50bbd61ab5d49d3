"""Options of an analysis: one declaration for `mpdiag.analyze` and `mpdiag analyze`.

The module imports nothing heavy, so that the command line starts without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from mpdiag.choices import Engine, Part, Task
from mpdiag.errors import ConfigError
from mpdiag.printable import printable

MatchPoints = int | Literal["all"]

MAX_MATCH_POINTS = 1_000_000
MAX_DIGITS = 18


def option(help_text: str, *, stored: bool = False, **command_line: Any) -> dict[str, Any]:
    """Return the metadata of an option.

    Args:
        help_text: its documentation.
        stored: whether run.json keeps its value among the settings.
        command_line: further arguments of `typer.Option`.
    """
    return {"help": help_text, "stored": stored, "command_line": command_line}


def parse_match_points(text: str) -> MatchPoints:
    """Convert the text of `--match-points`; `AnalysisOptions` validates the value."""
    return _parse_count(text) or text  # type: ignore[return-value]


def _parse_count(text: str) -> int | None:
    """Return a number of at most `MAX_DIGITS` digits, or None."""
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Which model and data set to use, and where. The metadata of each field documents it.

    Raises:
        ConfigError: a value is invalid.
    """

    config: Path | None = field(
        default=None,
        metadata=option("detectron2 YAML file, for settings that the weights do not contain."),
    )
    engine: Engine | None = field(
        default=None,
        metadata=option(
            "Library that runs a Mask2Former of transformers: mpdiag or transformers.",
            show_default="mpdiag",
            metavar="NAME",
        ),
    )
    root: Path | None = field(
        default=None,
        metadata=option(
            "Folder of the data sets, or image folder of a FILE.json.",
            show_default="$DETECTRON2_DATASETS, else datasets/",
        ),
    )
    split: str | None = field(
        default=None,
        metadata=option(
            "Split of the data set.", show_default="as in the data set's name, else val"
        ),
    )
    task: Task | None = field(
        default=None,
        metadata=option(
            "Annotations to use: instance, panoptic or semantic.",
            show_default="as in the data set's name or file, else instance",
            metavar="NAME",
        ),
    )
    limit: int | None = field(
        default=None,
        metadata=option("Number of images to use.", stored=True, show_default="all images"),
    )
    device: str | None = field(
        default=None,
        metadata=option(
            "Device that runs the model: cpu, cuda or cuda:N.", show_default="cuda, else cpu"
        ),
    )

    def __post_init__(self) -> None:
        _check_choices(self, engine=Engine, task=Task)
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit}: is less than 1; give a number of images")


def _check_choices(options: SourceOptions, **choices: Any) -> None:
    """Raise ConfigError for a value that is not of its literal type."""
    for name, kind in choices.items():
        value, known = getattr(options, name), get_args(kind)
        if value is not None and value not in known:
            raise ConfigError(
                f"--{name} {printable(value, 80)}: is unknown; choose one of {', '.join(known)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisOptions(SourceOptions):
    """Options of an analysis. The metadata of each field documents it.

    Raises:
        ConfigError: a value is invalid, or two options exclude each other.
    """

    part: Part = field(
        default="matching",
        metadata=option(
            "Part of the model to analyse: matching, or piloted, the MP part, which gets the GT "
            "as in training, in one group and without noise.",
            metavar="NAME",
        ),
    )
    pilot_layers: int | None = field(
        default=None,
        metadata=option(
            "With --part piloted: number of decoder layers, from the first, that attend within "
            "the GT masks.",
            show_default="as in training, else all",
        ),
    )
    save_masks: str = field(
        default="worst:50",
        metadata=option(
            "Queries whose masks are saved: worst:K, all or none. The worst queries change "
            "most from layer to layer.",
            stored=True,
        ),
    )
    save_attention: bool = field(
        default=False,
        metadata=option(
            "Also save the cross-attention of these queries in each layer.", stored=True
        ),
    )
    match_points: MatchPoints | None = field(
        default=None,
        metadata=option(
            "Number of points to match on, or all cells.",
            stored=True,
            show_default="as in training, else 12544",
            parser=parse_match_points,
            metavar="INTEGER|all",
        ),
    )
    evaluate: bool = field(
        default=True,
        metadata=option(
            "Compute AP, PQ or mIoU of the last layer, and save its detections. Matching "
            "part only.",
            stored=True,
        ),
    )
    evaluate_layers: bool = field(
        default=False,
        metadata=option(
            "Evaluate every layer as if it were the last. The evaluation takes L + 1 times as "
            "long; the model runs once.",
            stored=True,
        ),
    )
    intervene: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "attention=SOURCE:LAYERS[:QUERIES] replaces the attention masks of these layers by "
            "the GT mask (SOURCE gt), by the mask of the previous layer (previous) or by no mask "
            "(none), for example attention=gt:1-3. self-attention=none:LAYERS and "
            "queries=none:QUERIES switch them off. Repeatable.",
            stored=True,
            metavar="CHANGE",
        ),
    )
    workers: int = field(
        default=0,
        metadata=option(
            "Processes that read images and GT ahead of the model and evaluate detections. The "
            "model then runs one batch ahead in a thread. 0: one thread does everything in turn."
        ),
    )
    resume: bool = field(default=False, metadata=option("Continue an unfinished run."))

    def __post_init__(self) -> None:
        SourceOptions.__post_init__(self)  # `super()` does not work in a class with slots
        _check_choices(self, part=Part)
        if self.pilot_layers is not None and self.part != "piloted":
            raise ConfigError("--pilot-layers: works on the MP part only; add --part piloted")
        if self.workers < 0:
            raise ConfigError(f"--workers {self.workers}: is negative; give a number of processes")
        points = self.match_points
        if points not in (None, "all") and not (
            isinstance(points, int) and 0 < points <= MAX_MATCH_POINTS
        ):
            raise ConfigError(
                f"--match-points {printable(points, 80)}: is no number of points; give one in "
                f"1-{MAX_MATCH_POINTS}, or all"
            )
        if SavePolicy.parse(self.save_masks).count == 0 and self.save_attention:
            raise ConfigError(
                f"--save-attention: needs saved masks, and --save-masks {self.save_masks} saves "
                "none; choose worst:K or all"
            )
        for name in ("save_attention", "intervene"):
            if self.part == "piloted" and getattr(self, name):
                raise ConfigError(
                    f"--{name.replace('_', '-')}: works on the matching part only; leave it or "
                    "--part piloted out"
                )

    def stored(self) -> Mapping[str, Any]:
        """Return the options that run.json keeps among the settings."""
        return {x.name: getattr(self, x.name) for x in fields(self) if x.metadata["stored"]}


@dataclass(frozen=True, slots=True)
class SavePolicy:
    """Which queries are saved: the `count` worst of the run; None for all, 0 for none."""

    count: int | None

    @classmethod
    def parse(cls, text: str) -> "SavePolicy":
        """Parse `worst:K`, `all` or `none`.

        Raises:
            ConfigError: the text is none of them.
        """
        kind, _, number = text.partition(":")
        if text in ("all", "none"):
            return cls(None if text == "all" else 0)
        count = _parse_count(number)
        if kind == "worst" and count is not None:
            return cls(count)
        raise ConfigError(
            f"--save-masks {printable(text, 80)}: is unknown; choose worst:K (for example "
            "worst:50), all or none"
        )
