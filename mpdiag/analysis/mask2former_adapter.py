"""Adapters of mpdiag's Mask2Former: matching part and MP part."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from mpdiag.analysis.adapter import (
    ATTENTION_NAMES,
    LayerAttention,
    LayerPredictions,
    ModelAdapter,
    ModelInfo,
    PreprocessedImage,
)
from mpdiag.analysis.class_mapping import ClassMapping, map_by_number, map_classes
from mpdiag.analysis.settings import ModelSettings
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.config import LossConfig, PilotConfig
from mpdiag.data import ResizeShortestEdge, Sample, SegmentationDataset, drop_empty
from mpdiag.errors import CheckpointError, ConfigError
from mpdiag.matching import Target
from mpdiag.models import Mask2Former, Mask2FormerOutput, build_pilot_inputs
from mpdiag.models.mask2former import padded_size
from mpdiag.recording import record


class Mask2FormerAdapter(ModelAdapter):
    """The matching part: the learnable queries."""

    module: Mask2Former

    def __init__(
        self, loaded: LoadedCheckpoint, data: SegmentationDataset, pilot_layers: int | None = None
    ) -> None:
        """Set up a checkpoint for a data set.

        Raises:
            CheckpointError: the classes of the checkpoint are not those of the data set.
        """
        short_side, long_side = loaded.image_size
        settings = ModelSettings.from_loss(
            loaded.training_info.loss if loaded.training_info else LossConfig(),
            short_side=short_side,
            long_side=long_side,
            pilot_layers=pilot_layers,
        )
        info = ModelInfo(
            path=str(loaded.path),
            sha256=loaded.sha256,
            architecture=loaded.model.config.model_dump(mode="json"),
            settings=settings,
            method=loaded.recipe.method if loaded.recipe else None,
        )
        super().__init__(loaded.model, _classes(loaded, data), info)
        self.resize = None if short_side is None else ResizeShortestEdge(short_side, long_side)

    def preprocess(self, sample: Sample) -> PreprocessedImage:
        sample = drop_empty(self.resize(sample) if self.resize else sample)
        return PreprocessedImage(sample, padded_size([sample.size]))

    def predict(
        self, batch: Sequence[PreprocessedImage], targets: Sequence[Target], *, attention: bool
    ) -> LayerPredictions:
        # The sizes of the attention grids follow from that of the mask logits.
        names = ["mask_logits", ATTENTION_NAMES]
        recorder = record(self.module, only=names, reduce="mean-heads")
        with recorder if attention else nullcontext() as recording:
            output: Mask2FormerOutput = self.module([image.sample.image for image in batch])
        return LayerPredictions(
            self.classes(output.matching.class_logits),
            output.matching.mask_logits,
            () if recording is None else LayerAttention.from_recording(recording),
        )


class MPPartAdapter(Mask2FormerAdapter):
    """The MP part: GT as queries as in training, in one group and without noise."""

    single_image_batches = True  # the number of queries depends on the image
    queries_are_gt = True

    def __init__(
        self, loaded: LoadedCheckpoint, data: SegmentationDataset, pilot_layers: int | None = None
    ) -> None:
        """Set up the MP part of a checkpoint.

        Args:
            pilot_layers: number of decoder layers, from the first, that attend within GT masks;
                None for that of training if it is known, else all.

        Raises:
            CheckpointError: the checkpoint has no MP part with attention masks.
            ConfigError: the model does not have so many layers.
        """
        if not loaded.model.config.label_embedding:
            raise CheckpointError(
                f"{loaded.path}: has no class embeddings (label_enc), so it has no MP part; leave "
                "--part piloted out"
            )
        trained, layers = _pilot_layers(loaded), loaded.model.config.decoder_layers
        if pilot_layers is not None and not 1 <= pilot_layers <= layers:
            raise ConfigError(f"--pilot-layers {pilot_layers}: give a number in 1-{layers}")
        super().__init__(loaded, data, pilot_layers or trained)

    def predict(
        self, batch: Sequence[PreprocessedImage], targets: Sequence[Target], *, attention: bool
    ) -> LayerPredictions:
        """Predict one query per GT, in the order of the GT."""
        config, layers = self.module.config, self.info.settings.pilot_layers
        assert layers is not None
        device = targets[0]["labels"].device
        pilot = build_pilot_inputs(
            targets,
            PilotConfig(num_queries=max(len(targets[0]["labels"]), 1), noise="none", label_noise=0),
            layers=layers,
            num_classes=config.num_classes,
            generators=[torch.Generator(device)],
        )
        if pilot is None:  # an image without GT
            shape, (height, width) = (config.decoder_layers + 1, 1, 0), batch[0].padded
            classes = torch.zeros(*shape, config.num_classes + 1, device=device)
            masks = torch.zeros(*shape, height // 4, width // 4, device=device)
            return LayerPredictions(classes, masks)
        output: Mask2FormerOutput = self.module([image.sample.image for image in batch], pilot)
        assert output.piloted is not None
        return LayerPredictions(output.piloted.class_logits, output.piloted.mask_logits)


def _classes(loaded: LoadedCheckpoint, data: SegmentationDataset) -> ClassMapping:
    """Map the classes: by number for checkpoints of mpdiag, by name for others."""
    path, source = str(loaded.path), str(data.annotations.path)
    count = loaded.model.config.num_classes
    if not loaded.classes:
        return map_classes(loaded.labels, count, data.classes, path, source)
    mapping = map_by_number(count, data.classes, path, source)
    for number, (known, here) in enumerate(zip(loaded.classes, data.classes, strict=False)):
        if str(known["name"]).strip() != here.name:
            raise CheckpointError(
                f"{path}: class {number} is {known['name']}, but {here.name} in "
                f"{source}; give the data set that it was trained on"
            )
    return mapping


def _pilot_layers(loaded: LoadedCheckpoint) -> int:
    """Return in how many layers GT masks are used: as in training if known, else in all."""
    recipe, layers = loaded.recipe, loaded.model.config.decoder_layers
    if recipe is not None and recipe.pilot.query_input != "attention-mask":
        raise CheckpointError(
            f"{loaded.path}: was trained with pilot.query_input = {recipe.pilot.query_input}, so "
            "its MP part has no GT masks as attention masks; leave --part piloted out"
        )
    if recipe is None or recipe.pilot.layers == "all":
        return layers
    return min(recipe.pilot.layers, layers)
