"""A model of any library, given with its preprocessing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mpdiag.errors import ConfigError

Preprocess = Callable[[Tensor], Tensor | tuple[Tensor, tuple[int, int]]]
"""From an image, uint8 (3, H, W) in RGB, to the tensor (C, h, w) that the model takes.

If the image is padded at the right and at the bottom, (height, width) without padding comes second.
"""


@dataclass(frozen=True, slots=True)
class CustomModel:
    """A module, and what `mpdiag.analyze` and `mpdiag.diagnose` need to run it on images.

    The module is called with a tensor (B, C, h, w). Wrap a model that takes other inputs in a
    module that makes them from the tensor; the recorder finds the model inside it.

        def preprocess(image):
            return torchvision.transforms.v2.functional.resize(image, (512, 512)) / 255

        mpdiag.analyze(mpdiag.CustomModel(segmenter, preprocess), "coco")

    Attributes:
        module: a model that `mpdiag.record` records, or a module that contains one.
        preprocess: see `Preprocess`.
        classes: names of the classes in the order of the logits, without no-object. None for a
            model with the classes of the data set in their order.

    Raises:
        ConfigError: `preprocess` cannot be called.
    """

    module: nn.Module
    preprocess: Preprocess
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not callable(self.preprocess):
            raise ConfigError(
                f"{self.name}: preprocess is {type(self.preprocess).__name__}; give a function "
                "from an image, uint8 (3, height, width), to the tensor that the model takes"
            )

    @property
    def name(self) -> str:
        """Name of the class of the module."""
        return type(self.module).__name__
