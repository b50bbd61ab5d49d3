"""`mpdiag analyze`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mpdiag.commands.options import Config, Engine, Part, Root, Task, err, out


def analyze(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint, training or transformers directory, or hub id.")
    ],
    output: Annotated[Path, typer.Option(help="The run directory to write.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="A name, as coco or detectron2's coco_2017_val, a folder or FILE.json; what the "
            "checkpoint's config says by default."
        ),
    ] = None,
    config: Config = None,
    engine: Annotated[
        Engine | None,
        typer.Option(help="Who runs a Mask2Former of transformers; mpdiag by default."),
    ] = None,
    root: Root = None,
    split: Annotated[
        str | None,
        typer.Option(help="Part of the data set; what its name says, or val, by default."),
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(help="Which annotations; what name or file say, or instance, by default."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
    part: Annotated[Part, typer.Option(help="Matching part or MP part.")] = Part.matching,
    save_masks: Annotated[
        str, typer.Option(help="Of the worst:K queries, all or none.")
    ] = "worst:50",
    save_attention: Annotated[
        bool,
        typer.Option("--save-attention", help="And where those queries look in each layer."),
    ] = False,
    match_points: Annotated[
        str | None, typer.Option(help="Points to match on, or 'all' cells.")
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="AP, PQ or mIoU of the last layer, too.")] = True,
    evaluate_layers: Annotated[
        bool, typer.Option("--evaluate-layers", help="And of every layer, as if it were the last.")
    ] = False,
    intervene: Annotated[
        list[str] | None,
        typer.Option(
            metavar="attention=SOURCE:LAYERS[:QUERIES]",
            help="Let queries attend within gt masks, the previous layer's, or none (everything) "
            "in these layers, as attention=gt:1-3. May be given several times.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
) -> None:
    """Record every layer of a model over a data set and write a run directory."""
    from mpdiag.analysis import analyze as run
    from mpdiag.analysis import torchrun_shard
    from mpdiag.analysis.settings import parse_match_points
    from mpdiag.progress import progress_bar

    with (
        torchrun_shard() as shard,
        progress_bar(err, f"analysing {Path(checkpoint).name}") as progress,
    ):
        run(
            checkpoint,
            dataset,
            output,
            config=config,
            engine=None if engine is None else engine.value,
            root=root,
            split=split,
            task=task and task.value,
            limit=limit,
            part=part.value,
            save_masks=save_masks,
            save_attention=save_attention,
            match_points=parse_match_points(match_points),
            evaluate=evaluate,
            evaluate_layers=evaluate_layers,
            intervene=intervene or (),
            resume=resume,
            progress=progress if shard.first else None,
            shard=shard,
        )
    if shard.first:
        out.print(f"[bold]{escape(str(output))}[/]", soft_wrap=True)
