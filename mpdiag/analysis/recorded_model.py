"""Other libraries' modules as the analysis sees them: their own preprocessing, and the recorder."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from mpdiag.analysis.class_names import ClassMap
from mpdiag.analysis.predicted import recorded, require_attention
from mpdiag.analysis.preprocessing import Preprocessing
from mpdiag.analysis.segmenter import Predicted, Shown
from mpdiag.data import ResizeShortestEdge, Sample, drop_empty
from mpdiag.data.transforms import resize
from mpdiag.matching import Target


class RecordedModel(ABC):
    """A module of a family that the recorder reads."""

    one_by_one = False
    fed_gt = False
    attention = False

    def __init__(self, module: nn.Module, classes: ClassMap) -> None:
        self.module = module
        self.classes = classes

    def to(self, device: torch.device) -> None:
        self.module.to(device).eval()

    @abstractmethod
    def show(self, sample: Sample) -> Shown: ...

    @abstractmethod
    def run(self, batch: Sequence[Shown], device: torch.device) -> None:
        """The module's forward pass on images that are padded alike."""

    def watch_attention(self) -> None:
        require_attention(self.module)
        self.attention = True

    def predict(self, batch: Sequence[Shown], targets: Sequence[Target]) -> Predicted:
        device = next(self.module.parameters()).device
        return recorded(
            self.module,
            lambda: self.run(batch, device),
            attention=self.attention,
            classes=self.classes,
        )


class TransformersModule(RecordedModel):
    """One of transformers' segmenters."""

    def __init__(self, module: nn.Module, preprocess: Preprocessing, classes: ClassMap) -> None:
        super().__init__(module, classes)
        self.preprocess = preprocess

    def show(self, sample: Sample) -> Shown:
        inputs, size = self.preprocess(sample.image)
        height, width = inputs["pixel_values"].shape[-2:]
        return Shown(drop_empty(resize(sample, size)), (height, width), inputs)

    def run(self, batch: Sequence[Shown], device: torch.device) -> None:
        names = batch[0].inputs
        inputs = {name: torch.cat([shown.inputs[name] for shown in batch]) for name in names}
        self.module(**{name: tensor.to(device) for name, tensor in inputs.items()})


class OfficialModel(RecordedModel):
    """An official Mask2Former or MP-Former, which normalises and pads by itself."""

    def __init__(
        self, module: nn.Module, size: tuple[int, int], divisibility: int, classes: ClassMap
    ) -> None:
        """Args:
        module: detectron2's meta-architecture.
        size: shorter side, and the most of the longer.
        divisibility: what padded sides are multiples of.
        classes: of the data set.
        """
        super().__init__(module, classes)
        self.resize = ResizeShortestEdge(*size)
        self.divisibility = divisibility

    def show(self, sample: Sample) -> Shown:
        sample = drop_empty(self.resize(sample))
        height, width = (
            -(-side // self.divisibility) * self.divisibility for side in sample.image.shape[-2:]
        )
        return Shown(sample, (height, width))

    def run(self, batch: Sequence[Shown], device: torch.device) -> None:
        self.module(
            [
                {"image": shown.sample.image, "height": shown.size[0], "width": shown.size[1]}
                for shown in batch
            ]
        )
