"""The jobs of `mpdiag bench memory`.

A job prepares its inputs and returns the function to measure.
"""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import rich.box
import torch
from rich.table import Table

from benchmarks.peak_memory import PeakMemory
from benchmarks.scenes import SyntheticScenes, random_samples
from mpdiag.analysis import analyze
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.config import BackboneConfig, LossConfig, ModelConfig, TrainConfig
from mpdiag.data import ClassInfo
from mpdiag.models import ImageSizes, Mask2Former, instance_inference
from trainers.distributed import DistributedContext
from trainers.loop import resolve
from trainers.trainer import Trainer

TINY = ModelConfig(
    num_classes=7,
    backbone=BackboneConfig(name="resnet18", channels=(8, 8, 16, 16), stem_channels=8),
    hidden_dim=32,
    mask_dim=16,
    num_heads=4,
    encoder_layers=1,
    encoder_feedforward_dim=32,
    decoder_layers=3,
    feedforward_dim=32,
    num_queries=20,
)


def training_step(config: TrainConfig, size: tuple[int, int]) -> Callable[[], object]:
    """Return one optimizer step on a batch of random images with `OBJECTS` objects each.

    Args:
        config: a recipe; its data set is not read, and the weights are random.
        size: height and width of the images in pixels.
    """
    trainer = random_trainer(config)
    batch, classes = trainer.config.data.batch_size, trainer.config.model.num_classes
    samples = random_samples(batch, size, classes)
    return lambda: trainer.step(samples, range(len(samples)))


def random_trainer(config: TrainConfig) -> Trainer:
    """Return the trainer of a recipe with random weights and classes without names."""
    backbone = config.model.backbone.model_copy(update={"pretrained": False})
    model = config.model.model_copy(update={"backbone": backbone})
    classes = [ClassInfo(index + 1, f"class {index + 1}") for index in range(model.num_classes)]
    random_config = config.model_copy(update={"model": model, "init": None})
    resolved = resolve(random_config, len(classes), config.data.batch_size)
    return Trainer(resolved, classes, DistributedContext.initialize())


def inference(model: ModelConfig, size: tuple[int, int]) -> Callable[[], object]:
    """Return the inference of one image, including its instances at the image size."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = Mask2Former(model).eval().to(device)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, device=device)

    @torch.inference_mode()
    def run() -> object:
        matching = network([image]).matching
        height, width = network.preprocess([image]).shape[-2:]
        sizes = ImageSizes((height, width), size, size)
        return instance_inference(matching.class_logits[-1, 0], matching.mask_logits[-1, 0], sizes)

    return run


def analysis(images: int, size: tuple[int, int], model: ModelConfig = TINY) -> Callable[[], object]:
    """Return the analysis of synthetic scenes, with AP, by a model with random weights."""
    scenes = SyntheticScenes(images, size, model.num_classes, keep=False)
    info = TrainingInfo(LossConfig(), short_side=min(size), long_side=max(size))
    network = Mask2Former(model).eval()
    loaded = LoadedCheckpoint(Path("random"), "random weights", "", network, training_info=info)

    def run() -> object:
        with TemporaryDirectory() as folder:
            return json.dumps(analyze(loaded, scenes, Path(folder) / "run"))

    return run


def memory_table(peaks: list[PeakMemory]) -> Table:
    """Return the measurements as a table in MiB."""
    view = Table(box=rich.box.SIMPLE_HEAD, title="Memory, MiB", title_justify="left")
    view.add_column("job")
    for name in ("before", "peak", "increase"):
        view.add_column(name, justify="right")
    for peak in peaks:
        sizes = (peak.before, peak.peak, peak.peak - peak.before)
        view.add_row(f"{peak.job} ({peak.device})", *(f"{size / 2**20:,.0f}" for size in sizes))
    return view
