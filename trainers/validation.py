"""Evaluation during training: each process judges its share of the images, all know the scores."""

from collections.abc import Callable

import torch

from mpdiag.config import DataConfig
from mpdiag.data import ResizeShortestEdge, Sample, SegmentationDataset
from mpdiag.evaluation import Evaluator
from mpdiag.models import Sizes
from mpdiag.models.mask2former import PIXELS_AT_ONCE, alike
from trainers.trainer import Trainer


@torch.inference_mode()
def validate(
    trainer: Trainer, data: SegmentationDataset, progress: Callable[[int, int], None]
) -> tuple[dict[str, float | None], str]:
    """The last layer's AP, PQ or mIoU.

    Args:
        trainer: its model is measured, and left in training mode.
        data: held-out images.
        progress: called with (images done, images in all) of this process.

    Returns:
        The scores by name as fractions, None where no GT counts, and the name of the one that
        decides which model is the best.
    """
    ranks, settings = trainer.ranks, trainer.config
    model = trainer.model.eval()
    evaluator = Evaluator(data)
    indices = range(ranks.rank, len(data), ranks.world)
    samples = (_shown(data, index, settings.data) for index in indices)
    done = 0
    for size, batch in alike(samples, PIXELS_AT_ONCE[ranks.device.type]):
        with trainer.autocast():
            found = model([sample.image.to(ranks.device) for sample in batch]).matching
        for place, sample in enumerate(batch):
            image = (sample.image.shape[-2], sample.image.shape[-1])
            sizes = Sizes(size, image, sample.original_size)
            classes, masks = found.class_logits[-1, place], found.mask_logits[-1, place]
            evaluator.update(indices[done], evaluator.find(classes, masks, sizes))
            done += 1
        progress(done, len(indices))
    model.train()
    whole, *others = ranks.gather(evaluator)
    for other in others:
        whole = whole + other
    return whole.scores(), whole.headline


def at_inference(sample: Sample, settings: DataConfig) -> Sample:
    """A sample at the size that the model is shown at inference."""
    if settings.short_side is None:
        return sample
    return ResizeShortestEdge(settings.short_side, settings.long_side)(sample)


def _shown(data: SegmentationDataset, index: int, settings: DataConfig) -> Sample:
    """An image without its truth, which the evaluator reads."""
    image = data.image(index)
    size = (image.shape[-2], image.shape[-1])
    nothing = torch.zeros(0, *size, dtype=torch.bool)
    name, labels = data.file_name(index), torch.zeros(0, dtype=torch.int64)
    sample = Sample(data.image_ids[index], name, image, nothing, labels, size)
    return at_inference(sample, settings)
