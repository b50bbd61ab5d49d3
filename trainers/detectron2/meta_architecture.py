"""mpdiag's model with its training method as a meta-architecture of detectron2."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from mpdiag.checkpoints.loading import build_model
from mpdiag.models import (
    ImageSizes,
    Mask2Former,
    Predictions,
    instance_inference,
    panoptic_inference,
    semantic_scores,
)
from mpdiag.models.mask2former import padded_size
from trainers.detectron2.config import train_config_of
from trainers.detectron2.official_state_dict import use_official_names
from trainers.detectron2.structures import panoptic_to_detectron2, sample_of, to_detectron2
from trainers.distributed import mean_normalizers
from trainers.methods import Batch, Randomness, build_method

Inputs = Sequence[Mapping[str, Any]]

_log = logging.getLogger(__name__)


class MPDiagMask2Former(nn.Module):
    """Mask2Former or MP-Former as `MODEL.META_ARCHITECTURE`, with a training method of mpdiag.

    Inputs and outputs are those of the official `MaskFormer`: in training mode weighted losses by
    their official names, else `instances`, `panoptic_seg` and `sem_seg` of each image, as set by
    `MODEL.MASK_FORMER.TEST`. The state dict is that of the official model.

    Random numbers depend on the seed, the step and an image's position in the batch, as in
    mpdiag's trainer.
    """

    def __init__(self, cfg: Any) -> None:
        """Build the model from a CfgNode with `add_mpdiag_config`.

        Raises:
            ConfigError: a value is not supported.
        """
        super().__init__()
        self.recipe = train_config_of(cfg)
        model = build_model(self.recipe.model)
        if comm.get_world_size() > 1 and cfg.MODEL.DEVICE != "cpu":
            convert_sync_batchnorm(model)  # as in mpdiag's trainer
        self.method = build_method(model, self.recipe)
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.detections = cfg.TEST.DETECTIONS_PER_IMAGE
        self.test = cfg.MODEL.MASK_FORMER.TEST.clone()
        names = cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
        self.metadata = MetadataCatalog.get(names[0] if names else "")
        self._steps = 0  # counted here only outside of a detectron2 trainer
        use_official_names(self, "method.model.", self.recipe.loss.no_object_weight)

    @property
    def model(self) -> Mask2Former:
        """The network without its training method."""
        return self.method.model

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.model.get_buffer("mean").device

    @property
    def things(self) -> list[bool]:
        """Whether each class is countable, by the current metadata of the training data."""
        countable = set(self.metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
        return [label in countable for label in range(self.recipe.model.num_classes)]

    def forward(self, batched_inputs: Inputs) -> Any:
        """Return losses by name in training mode, else one result per image."""
        return self._losses(batched_inputs) if self.training else self._results(batched_inputs)

    def _losses(self, inputs: Inputs) -> dict[str, Tensor]:
        """Compute losses; autocast of detectron2 applies to the model, the rest is in float32."""
        kind, rank, world_size = self.device.type, comm.get_rank(), comm.get_world_size()
        enabled = torch.is_autocast_enabled(kind)
        positions = range(rank, rank + world_size * len(inputs), world_size)
        draws = Randomness.for_step(self.seed, self._step(), positions, self.device)
        with torch.autocast(kind, enabled=False):
            precision = torch.get_autocast_dtype(kind) if enabled else None
            batch = Batch.from_samples([sample_of(one) for one in inputs], draws, precision)
            normalizers = mean_normalizers(
                [self.method.normalizers(batch.targets)], world_size, self.device
            )
            losses: dict[str, Tensor] = self.method(batch, normalizers)
        return losses

    def _step(self) -> int:
        if has_event_storage():
            return int(get_event_storage().iter)
        self._steps += 1
        return self._steps - 1

    def _results(self, inputs: Inputs) -> list[dict[str, Any]]:
        images = [one["image"].to(self.device) for one in inputs]
        found = self.model(images).matching
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        padded = padded_size(sizes)
        return [
            self._result(
                found,
                index,
                ImageSizes(padded, size, (one.get("height", size[0]), one.get("width", size[1]))),
            )
            for index, (one, size) in enumerate(zip(inputs, sizes, strict=True))
        ]

    def _result(self, found: Predictions, index: int, sizes: ImageSizes) -> dict[str, Any]:
        """Postprocess the last layer's predictions of one image as configured."""
        classes, masks = found.class_logits[-1, index], found.mask_logits[-1, index]
        test, things, result = self.test, self.things, dict[str, Any]()
        semantic_only = not (test.PANOPTIC_ON or test.INSTANCE_ON)
        if test.SEMANTIC_ON:
            resize = semantic_only and not test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE
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
