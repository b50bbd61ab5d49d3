"""Another library's module as the analysis sees it: its own preprocessing, and the recorder."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mpdiag.analysis.class_names import ClassMap
from mpdiag.analysis.preprocessing import Preprocessing
from mpdiag.analysis.segmenter import Shown
from mpdiag.data import Sample, drop_empty
from mpdiag.data.transforms import resize
from mpdiag.matching import Target
from mpdiag.recording import record


class RecordedModel:
    """A module of a family that the recorder reads."""

    one_by_one = False
    fed_gt = False

    def __init__(self, module: nn.Module, preprocess: Preprocessing, classes: ClassMap) -> None:
        self.module = module
        self.preprocess = preprocess
        self.classes = classes

    def to(self, device: torch.device) -> None:
        self.module.to(device).eval()

    def show(self, sample: Sample) -> Shown:
        inputs, size = self.preprocess(sample.image)
        height, width = inputs["pixel_values"].shape[-2:]
        return Shown(drop_empty(resize(sample, size)), (height, width), inputs)

    def predict(self, batch: Sequence[Shown], targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
        device = next(self.module.parameters()).device
        inputs = {
            name: torch.cat([shown.inputs[name] for shown in batch]).to(device)
            for name in batch[0].inputs
        }
        with record(self.module, only=["class_logits", "mask_logits"]) as recording:
            self.module(**inputs)
        return self.classes(recording.class_logits), recording.mask_logits
