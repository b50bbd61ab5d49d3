"""A healthy model and images, in which cases plant faults."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.diagnosis.colored_shapes import generate_colored_shapes
from benchmarks.diagnosis.fault import CocoContent
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.loading import load_checkpoint
from mpdiag.untrusted import read_json
from trainers.loop import train
from trainers.recipe import load_recipe

TRAIN_IMAGES = 3000
IMAGES = 60  # per case
IMAGE_SEED = 1_000_000  # added to the seeds of cases, so that no scene is one of the training
RECIPE = (
    "method=piloted",
    "model.decoder_layers=6",
    "evaluate_every=null",
    "layer_metrics_every=null",
    "schedule.iterations=1200",
)


@dataclass(frozen=True, slots=True)
class Images:
    """Images with their annotations.

    Attributes:
        folder: folder of the image files.
        content: content of the COCO instance file.
    """

    folder: Path
    content: CocoContent


class ColoredShapes:
    """A model that is trained on colored shapes, and images for its diagnosis."""

    def __init__(self, directory: Path, console: Console) -> None:
        """Keep the training and the images in `directory`; those that exist are used."""
        self._directory = directory
        self._console = console

    def model(self) -> LoadedCheckpoint:
        """Return the model, and train it if it does not exist."""
        output = self._directory / "train"
        if not (output / "model_final.pth").is_file():
            self._console.print("Training the healthy model")
            root = self._directory / "data"
            generate_colored_shapes(root / "synthetic", train=TRAIN_IMAGES, val=200, seed=0)
            recipe = load_recipe("synthetic-tiny", [*RECIPE, f"data.root={root}"])
            train(recipe, output, resume=True, console=self._console)
        return load_checkpoint(output / "model_final.pth")

    def images(self, seed: int) -> Images:
        """Return the images of a seed."""
        folder = generate_colored_shapes(
            self._directory / "images" / f"seed-{seed}",
            train=1,
            val=IMAGES,
            seed=IMAGE_SEED + seed,
        )
        return Images(folder / "val", read_json(folder / "annotations" / "instances_val.json"))


class GivenModel:
    """A given checkpoint, and images of a given COCO instance file, drawn with the seed."""

    def __init__(
        self, checkpoint: Path, annotations: Path, folder: Path, count: int = IMAGES
    ) -> None:
        self._checkpoint = checkpoint
        self._annotations = annotations
        self._folder = folder
        self._count = count

    def model(self) -> LoadedCheckpoint:
        """Return the model."""
        return load_checkpoint(self._checkpoint)

    def images(self, seed: int) -> Images:
        """Return `count` images that are drawn with the seed."""
        content = read_json(self._annotations)
        records = content["images"]
        chosen = np.random.default_rng(seed).permutation(len(records))[: self._count]
        content["images"] = [records[index] for index in sorted(chosen)]
        kept = {record["id"] for record in content["images"]}
        content["annotations"] = [
            annotation for annotation in content["annotations"] if annotation["image_id"] in kept
        ]
        return Images(self._folder, content)
