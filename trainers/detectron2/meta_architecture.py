"""Our model with its method and losses as one of detectron2's meta-architectures."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from mpdiag.checkpoints.loading import build_for_weights
from mpdiag.models import (
    Mask2Former,
    Predictions,
    Sizes,
    instance_inference,
    panoptic_inference,
    semantic_scores,
)
from mpdiag.models.mask2former import padded_size
from trainers.detectron2.config import recipe_of
from trainers.detectron2.names import speak_officially
from trainers.detectron2.structures import panoptic_to_detectron2, sample_of, to_detectron2
from trainers.methods import Batch, Randomness, build_method
from trainers.ranks import Ranks

Inputs = Sequence[Mapping[str, Any]]

_log = logging.getLogger(__name__)


class MPDiagMask2Former(nn.Module):
    """Mask2Former or MP-Former, trained by one of our methods: `MODEL.META_ARCHITECTURE`.

    Takes and gives what the official `MaskFormer` does: in training mode weighted losses by their
    official names, else for each image `instances`, `panoptic_seg` and `sem_seg`, as
    `MODEL.MASK_FORMER.TEST` says. Its state dict is the official model's.

    Randomness is that of our own trainer: a function of the seed, the step and an image's place
    in the batch.
    """

    def __init__(self, cfg: Any) -> None:
        """Build from a CfgNode with `add_mpdiag_config`.

        Raises:
            ConfigError: a key has a value that our model or method can't do.
        """
        super().__init__()
        self.recipe = recipe_of(cfg)
        self.method = build_method(build_for_weights(self.recipe.model), self.recipe)
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.detections = cfg.TEST.DETECTIONS_PER_IMAGE
        self.test = cfg.MODEL.MASK_FORMER.TEST.clone()
        names = cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
        self.metadata = MetadataCatalog.get(names[0] if names else "")
        self._steps = 0  # taken outside of a trainer, which counts them itself
        speak_officially(self, "method.model.", self.recipe.loss.no_object_weight)

    @property
    def model(self) -> Mask2Former:
        """The network alone."""
        return self.method.model

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.model.get_buffer("mean").device

    @property
    def things(self) -> list[bool]:
        """Which classes are countable, as the metadata of the training data says by now."""
        countable = set(self.metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
        return [label in countable for label in range(self.recipe.model.num_classes)]

    def forward(self, batched_inputs: Inputs) -> Any:
        """Losses by name in training mode, else a list of results by image."""
        return self._losses(batched_inputs) if self.training else self._results(batched_inputs)

    def _losses(self, inputs: Inputs) -> dict[str, Tensor]:
        """Under detectron2's autocast, the model runs in its precision, the rest in float32."""
        kind, rank, world = self.device.type, comm.get_rank(), comm.get_world_size()
        enabled = torch.is_autocast_enabled(kind)
        slots = range(rank, rank + world * len(inputs), world)
        draws = Randomness.of_step(self.seed, self._step(), slots, self.device)
        with torch.autocast(kind, enabled=False):
            batch = Batch.of([sample_of(one) for one in inputs], draws)
            ranks = Ranks(rank, world, self.device, meeting=self.device)
            census = ranks.mean_census([self.method.census(batch.targets)])
            precision = torch.get_autocast_dtype(kind) if enabled else None
            losses: dict[str, Tensor] = self.method(batch, census, precision)
        return losses

    def _step(self) -> int:
        if has_event_storage():
            return int(get_event_storage().iter)
        self._steps += 1
        return self._steps - 1

    def _results(self, inputs: Inputs) -> list[dict[str, Any]]:
        images = [one["image"].to(self.device) for one in inputs]
        found = self.model(images).matching
        shown = [(image.shape[-2], image.shape[-1]) for image in images]
        padded = padded_size(shown)
        return [
            self._result(
                found,
                place,
                Sizes(padded, size, (one.get("height", size[0]), one.get("width", size[1]))),
            )
            for place, (one, size) in enumerate(zip(inputs, shown, strict=True))
        ]

    def _result(self, found: Predictions, place: int, sizes: Sizes) -> dict[str, Any]:
        """What the last layer comes to on one image; thresholds and kinds as configured."""
        classes, masks = found.class_logits[-1, place], found.mask_logits[-1, place]
        test, things, result = self.test, self.things, dict[str, Any]()
        alone = not (test.PANOPTIC_ON or test.INSTANCE_ON)
        if test.SEMANTIC_ON:
            resize = alone and not test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE
            result["sem_seg"] = semantic_scores(classes, masks, sizes, resize_scores=resize)
        if test.PANOPTIC_ON:
            segments = panoptic_inference(
                classes,
                masks,
                sizes,
                things=things,
                object_mask_threshold=test.OBJECT_MASK_THRESHOLD,
                overlap_threshold=test.OVERLAP_THRESHOLD,
            )
            result["panoptic_seg"] = panoptic_to_detectron2(segments, things)
        if test.INSTANCE_ON:
            detections = instance_inference(
                classes,
                masks,
                sizes,
                detections=self.detections,
                things=things if test.PANOPTIC_ON else None,
            )
            result["instances"] = to_detectron2(detections)
        return result


META_ARCH_REGISTRY.register(MPDiagMask2Former)
