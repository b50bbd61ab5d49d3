"""`mpdiag analyze`, whose options are the fields of `AnalysisOptions`."""

import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from mpdiag.analysis.options import AnalysisOptions
from mpdiag.commands.model_reference import require_path, resolve_model
from mpdiag.commands.options import add_options, err, out, suggest


def analyze(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Checkpoint, training or transformers directory, or hub id; or MODULE:NAME of a "
            "CustomModel, or of a function that returns one."
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Name (for example coco, or coco_2017_val of detectron2), folder, or FILE.json.",
            show_default="as in the checkpoint's training, if it names one",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Run directory to write.",
            show_default="runs/CHECKPOINT-DATASET, with -piloted for the MP part",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Measure every layer of a model on a data set and write a run directory."""
    chosen = AnalysisOptions(**options)
    require_path(checkpoint)
    from mpdiag.analysis import prepare_run, torchrun_shard
    from mpdiag.progress import progress_bar

    with (
        torchrun_shard() as shard,
        progress_bar(err, f"analysing {Path(checkpoint).name}") as progress,
    ):
        run = prepare_run(
            resolve_model(checkpoint),
            dataset,
            output,
            progress=progress if shard.is_main_process else None,
            shard=shard,
            **{field.name: getattr(chosen, field.name) for field in fields(chosen)},
        )
        summary = run.write()
    if shard.is_main_process:
        err.print(_result(summary), highlight=False)
        out.print(f"[bold]{escape(str(run.output))}[/]", soft_wrap=True)
        path = shlex.quote(str(run.output))
        commands = ["report", "dashboard"]
        if run.evaluate and run.data.task == "instance" and chosen.part == "matching":
            commands.insert(0, "diagnose")
        suggest(*(f"mpdiag {command} {path}" for command in commands))


def _result(summary: Mapping[str, Any]) -> str:
    """Return the score of the last layer and the ranges of mIoU-L and Util in one line."""
    from mpdiag.store.diagnosis import SCORES

    parts = [
        f"{label} {100 * summary[key][key]:.1f}"
        for key, label in SCORES.items()
        if summary.get(key) and summary[key][key] is not None
    ]
    for key, label in (("miou_l", "mIoU-L"), ("util", "Util")):
        values = [100 * layer[key] for layer in summary["layers"] if layer[key] is not None]
        if values:
            parts.append(f"{label} {min(values):.0f} to {max(values):.0f}% over the layers")
    parts.append(f"{summary['num_images']:,} images with {summary['num_gt']:,} objects")
    return "; ".join(parts)


add_options(analyze, AnalysisOptions)
