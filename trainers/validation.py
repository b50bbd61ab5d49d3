"""Evaluation during training, with the images split over the processes."""

from collections.abc import Callable
from functools import partial, reduce
from operator import add

import torch

from mpdiag.config import DataConfig
from mpdiag.data import (
    GroundTruth,
    ResizeShortestEdge,
    Sample,
    SegmentationDataset,
    read_ahead,
)
from mpdiag.evaluation import Scores, build_evaluator
from mpdiag.models import ImageSizes
from mpdiag.models.batching import batches_by_size
from mpdiag.models.mask2former import padded_size
from trainers.trainer import Trainer


@torch.inference_mode()
def validate(
    trainer: Trainer, data: SegmentationDataset, progress: Callable[[int, int], bool]
) -> tuple[dict[str, float | None], str] | None:
    """Evaluate the last layer's AP, PQ or mIoU. All processes get the scores.

    `data.num_workers` processes read images and GT ahead of the model.

    Args:
        trainer: its model is evaluated, and left in training mode.
        data: held-out images.
        progress: called with this process's number of images done and in total; returns whether to
            go on.

    Returns:
        Scores by name as fractions, None without GT, and the name of the score that decides which
        model is the best. None if `progress` of any process has ended the evaluation.
    """
    distributed, settings = trainer.distributed, trainer.config
    model = trainer.model.eval()
    evaluator = build_evaluator(data)
    indices = range(distributed.rank, len(data), distributed.world_size)
    images = read_ahead(partial(_read, data, settings.data), indices, settings.data.num_workers)
    done, goes_on = 0, True
    for size, batch in batches_by_size(
        images, lambda read: padded_size([read[0].size]), distributed.device
    ):
        with trainer.autocast():
            found = model([sample.image for sample, _ in batch]).matching
        for index, (sample, ground_truth) in enumerate(batch):
            sizes = ImageSizes(size, sample.size, sample.original_size)
            classes, masks = found.class_logits[-1, index], found.mask_logits[-1, index]
            detections = evaluator.postprocess(classes, masks, sizes)
            evaluator.update(sample.image_id, detections, ground_truth)
            done += 1
        goes_on = progress(done, len(indices))
        if not goes_on:
            break
    model.train()
    if distributed.any(not goes_on):  # before the others wait for this process's images
        return None
    scores: Scores | None = None
    gathered = distributed.gather(evaluator)
    if gathered:
        scores = reduce(add, gathered).scores()
    return distributed.broadcast(scores), evaluator.primary_metric


def resize_for_inference(sample: Sample, settings: DataConfig) -> Sample:
    """Resize a sample to the size of inference."""
    if settings.short_side is None:
        return sample
    return ResizeShortestEdge(settings.short_side, settings.long_side)(sample)


def _read(
    data: SegmentationDataset, settings: DataConfig, index: int
) -> tuple[Sample, GroundTruth]:
    """Read an image at the size of inference, as a sample without GT, and its GT."""
    image = data.image(index)
    size = (image.shape[-2], image.shape[-1])
    nothing = torch.zeros(0, *size, dtype=torch.bool)
    name, labels = data.file_name(index), torch.zeros(0, dtype=torch.int64)
    sample = Sample(data.image_ids[index], name, image, nothing, labels, size)
    ground_truth = data.ground_truth(index)
    data.require_same_size(index, image, ground_truth)
    return resize_for_inference(sample, settings), ground_truth
