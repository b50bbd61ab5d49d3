"""Adapters of models that other libraries run; the recorder reads their layers."""

import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from mpdiag.analysis.adapter import (
    ATTENTION_NAMES,
    LayerAttention,
    LayerPredictions,
    ModelAdapter,
    ModelInfo,
    PreprocessedImage,
)
from mpdiag.analysis.class_mapping import map_classes
from mpdiag.analysis.settings import ModelSettings
from mpdiag.analysis.transformers_preprocessing import TransformersPreprocessor
from mpdiag.checkpoints.external_models import ExternalModel
from mpdiag.checkpoints.loading import LONG_SIDE, SHORT_SIDE
from mpdiag.data import ResizeShortestEdge, Sample, SegmentationDataset, drop_empty
from mpdiag.data.transforms import resize
from mpdiag.errors import CheckpointError
from mpdiag.matching import Target
from mpdiag.recording import family_of, record


class RecordedModelAdapter(ModelAdapter):
    """A module of a family that the recorder knows."""

    @abstractmethod
    def forward(self, batch: Sequence[PreprocessedImage], device: torch.device) -> None:
        """Run the module on images of one padded size."""

    def predict(
        self, batch: Sequence[PreprocessedImage], targets: Sequence[Target], *, attention: bool
    ) -> LayerPredictions:
        names = ["class_logits", "mask_logits", *([ATTENTION_NAMES] if attention else [])]
        with record(self.module, only=names, reduce="mean-heads") as recording:
            self.forward(batch, next(self.module.parameters()).device)
        return LayerPredictions(
            self.classes(recording.class_logits),
            recording.mask_logits,
            LayerAttention.from_recording(recording),
        )


class TransformersAdapter(RecordedModelAdapter):
    """A segmentation model of transformers, with its image processor."""

    def __init__(self, model: ExternalModel, data: SegmentationDataset) -> None:
        """Set up a model for a data set.

        Raises:
            CheckpointError: the classes are not those of the data set, or the preprocessing splits
                images.
            RecordingError: the recorder does not know the family.
        """
        family, module = family_of(model.module), model.module
        config = json.loads(module.config.to_json_string(use_diff=False))  # type: ignore[union-attr, operator]
        self.processor = TransformersPreprocessor(model.processor, module, data.task, model.name)
        settings = ModelSettings.from_loss(
            family.loss_config(module, model.name),
            inference=family.instance_rule,
            image_processor=self.processor.settings,
        )
        names = {int(index): str(name) for index, name in config.pop("id2label").items()}
        del config["label2id"]
        count = len(names)
        if set(names) != set(range(count)):
            raise CheckpointError(
                f"{model.name}: id2label must have the keys 0 to {count - 1}, one for each class "
                "of the weights"
            )
        numbered = all(name == f"LABEL_{index}" for index, name in names.items())
        classes = map_classes(
            None if numbered else [names[label] for label in range(count)],
            count,
            data.classes,
            model.name,
            str(data.annotations.path),
            exclusive=family.instance_rule != "sigmoid",
        )
        architecture = {
            "family": family.name,
            "notes": list(family.notes),
            "module": type(module).__name__,
            **config,
        }
        info = ModelInfo(
            path=model.name,
            sha256=model.sha256,
            architecture=architecture,
            settings=settings,
            packages=("transformers",),
        )
        super().__init__(module, classes, info)

    def preprocess(self, sample: Sample) -> PreprocessedImage:
        inputs, size = self.processor(sample.image)
        height, width = inputs["pixel_values"].shape[-2:]
        return PreprocessedImage(drop_empty(resize(sample, size)), (height, width), inputs)

    def forward(self, batch: Sequence[PreprocessedImage], device: torch.device) -> None:
        inputs = {
            name: torch.cat([image.inputs[name] for image in batch]).to(device)
            for name in batch[0].inputs
        }
        self.module(**inputs)


class OfficialMask2FormerAdapter(RecordedModelAdapter):
    """An official Mask2Former or MP-Former of detectron2, which normalises and pads by itself."""

    def __init__(self, model: ExternalModel, data: SegmentationDataset) -> None:
        """Set up a model for a data set.

        Raises:
            CheckpointError: the classes are not those of the data set.
        """
        module: Any = model.module
        family, count = family_of(module), int(module.sem_seg_head.num_classes)
        info = ModelInfo(
            path=model.name,
            sha256=model.sha256,
            architecture={"family": family.name, "num_classes": count},
            settings=ModelSettings.from_loss(
                family.loss_config(module, model.name), short_side=SHORT_SIDE, long_side=LONG_SIDE
            ),
        )
        labels, source = metadata_classes(module, count), str(data.annotations.path)
        classes = map_classes(labels, count, data.classes, model.name, source)
        super().__init__(module, classes, info)
        self.resize = ResizeShortestEdge(SHORT_SIDE, LONG_SIDE)
        own = int(module.size_divisibility)
        self.divisibility = max(own if own > 0 else int(module.backbone.size_divisibility), 1)

    def preprocess(self, sample: Sample) -> PreprocessedImage:
        sample = drop_empty(self.resize(sample))
        height, width = (
            -(-side // self.divisibility) * self.divisibility for side in sample.image.shape[-2:]
        )
        return PreprocessedImage(sample, (height, width))

    def forward(self, batch: Sequence[PreprocessedImage], device: torch.device) -> None:
        inputs = []
        for image in batch:
            height, width = image.sizes.image
            inputs.append({"image": image.sample.image, "height": height, "width": width})
        self.module(inputs)


def metadata_classes(module: Any, count: int) -> list[str] | None:
    """Return the class names of detectron2's metadata, or None if there are not `count` of them."""
    metadata = getattr(module, "metadata", None)
    for key in ("thing_classes", "stuff_classes"):
        names = getattr(metadata, key, None)
        if names is not None and len(names) == count:
            return [str(name) for name in names]
    return None
