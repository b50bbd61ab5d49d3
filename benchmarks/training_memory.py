"""The training step whose memory `mpdiag bench memory` measures."""

from collections.abc import Callable

import torch

from mpdiag.config import TrainConfig
from mpdiag.data import ClassInfo, Sample
from trainers.loop import fit
from trainers.distributed import DistributedContext
from trainers.trainer import Trainer

OBJECTS = 7  # COCO's mean for an image


def training_step(config: TrainConfig, size: tuple[int, int]) -> Callable[[], object]:
    """A step of a recipe on a batch of random images with so many objects each.

    Args:
        config: a recipe; its data is not read and its first weights are random.
        size: height and width of the images in pixels.
    """
    blank = config.model.backbone.model_copy(update={"pretrained": False})
    model = config.model.model_copy(update={"backbone": blank})
    classes = [ClassInfo(index + 1, f"class {index + 1}") for index in range(model.num_classes)]
    blank_config = config.model_copy(update={"model": model, "init": None})
    fitted = fit(blank_config, len(classes), config.data.batch_size)
    trainer = Trainer(fitted, classes, DistributedContext.initialize())
    generator = torch.Generator().manual_seed(0)
    height, width = size

    def sample(number: int) -> Sample:
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        masks = torch.zeros(OBJECTS, *size, dtype=torch.bool)
        for mask in masks:
            y, x = torch.rand(2, generator=generator).tolist()
            top, left = int(y * height * 0.75), int(x * width * 0.75)
            mask[top : top + height // 4, left : left + width // 4] = True
        labels = torch.randint(0, model.num_classes, (OBJECTS,), generator=generator)
        return Sample(number, f"{number}.png", image, masks, labels, size)

    samples = [sample(number) for number in range(config.data.batch_size)]

    def run() -> object:
        return trainer.step(samples, range(len(samples)))

    return run
