"""The official Mask2Former and MP-Former as detectron2 builds them, in our words."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from mpdiag.checkpoints.library_models import parameters_sha256
from mpdiag.config import LossConfig
from mpdiag.recording.family import is_a


@dataclass(frozen=True, slots=True)
class OfficialModule:
    """A MaskFormer of facebookresearch/Mask2Former or IDEA-Research/MP-Former as it is.

    Attributes:
        name: how run.json and errors call it.
        sha256: of its parameters.
        module: in evaluation mode.
    """

    name: str
    sha256: str
    module: nn.Module

    @property
    def num_classes(self) -> int:
        """Without no-object."""
        return int(self._parts.sem_seg_head.num_classes)

    @property
    def labels(self) -> list[str] | None:
        """Name of each class, if its metadata has a list of them that is as long."""
        metadata = getattr(self.module, "metadata", None)
        for key in ("thing_classes", "stuff_classes"):
            names = getattr(metadata, key, None)
            if names is not None and len(names) == self.num_classes:
                return [str(name) for name in names]
        return None

    @property
    def loss(self) -> LossConfig:
        """Costs and points of its matcher."""
        matcher = self._parts.criterion.matcher
        return LossConfig(
            class_weight=matcher.cost_class,
            mask_weight=matcher.cost_mask,
            dice_weight=matcher.cost_dice,
            points=matcher.num_points,
        )

    @property
    def divisibility(self) -> int:
        """What the sides of its padded images are multiples of."""
        own = int(self._parts.size_divisibility)
        return max(own if own > 0 else int(self._parts.backbone.size_divisibility), 1)

    @property
    def _parts(self) -> Any:
        return self.module


def is_official(module: nn.Module) -> bool:
    """Whether it is the whole model of an official repository."""
    return is_a(module, "mask2former", "MaskFormer")


def as_official_module(module: nn.Module) -> OfficialModule:
    """An official model, which prepares its images itself."""
    return OfficialModule(
        f"official {type(module).__name__}", parameters_sha256(module), module.eval()
    )
