"""The causes that a diagnosis can name, each declared once.

To add a cause, add it here, describe it in docs/diagnosis.md under its anchor, and yield candidates
with its name from a check.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

DOCS = "https://github.com/mpdiag/mpdiag/blob/main/docs/diagnosis.md"


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause of lost AP.

    Attributes:
        name: key in JSON.
        title: what is wrong, in a few words.
        remedy: what to do.
    """

    name: str
    title: str
    remedy: str

    @property
    def link(self) -> str:
        """Address of the description."""
        return f"{DOCS}#{self.name}"


_CAUSES = (
    Cause(
        "non-finite", "Predictions hold NaN or infinity",
        "Find the first layer with such values and run it in float32; lower the learning rate if "
        "the weights diverged.",
    ),
    Cause(
        "precision", "Activations have too few bits",
        "Run the listed modules in float32; quantise fewer modules or with more bits.",
    ),
    Cause(
        "channel-order", "Color channels are in the wrong order",
        "Give the model RGB images if it was trained with RGB, else BGR.",
    ),
    Cause(
        "normalisation", "Pixels are normalised with the wrong mean or standard deviation",
        "Normalise with the mean and the standard deviation of the training.",
    ),
    Cause(
        "input-scale", "Images have the wrong size",
        "Resize images as in training, or train with larger images.",
    ),
    Cause(
        "mask-offset", "Masks are shifted",
        "Check align_corners, padding and cropping where masks are resized.",
    ),
    Cause(
        "overlapping-labels", "Objects are annotated twice",
        "Remove duplicate annotations.",
    ),
    Cause(
        "class-confusion", "Classes are exchanged",
        "Compare the order of the classes of the model with that of the annotations.",
    ),
    Cause(
        "no-object-bias", "The bias of no-object is off",
        "Shift the bias of no-object, or change its weight in the loss (eos_coef).",
    ),
    Cause(
        "dead-queries", "Queries never predict an object",
        "Train the class head again, or initialise these queries anew and train further.",
    ),
    Cause(
        "query-switching", "Queries exchange their masks",
        "Check how queries are reordered between layers; train with mask piloting.",
    ),
    Cause(
        "empty-masks", "Masks become empty",
        "Check the mask head of these layers; train with mask piloting.",
    ),
    Cause(
        "misleading-attention", "Attention masks do not cover what the queries predict",
        "Check how attention masks are resized; train with mask piloting in the first layers.",
    ),
    Cause(
        "self-attention", "Self-attention has no effect",
        "Check the weights and the mask of self-attention.",
    ),
    Cause(
        "duplicate-queries", "Several queries predict the same object",
        "Initialise copies of queries anew and train further; suppress duplicates until then.",
    ),
    Cause(
        "too-few-queries", "There are too few queries",
        "Increase num_queries and train further.",
    ),
    Cause(
        "late-layers", "Late layers make predictions worse",
        "Stop at the best layer, or train the late layers again.",
    ),
    Cause(
        "early-layers", "Early layers harm what later layers predict",
        "Check the weights of these layers, or train them again; train with mask piloting.",
    ),
    Cause(
        "small-objects", "Scores of small objects are too low",
        "Train with small objects: check the smallest area that data set and crops keep; use "
        "larger images.",
    ),
    Cause(
        "ranking", "Scores do not rank masks by quality",
        "Train the scores with a quality target, for example the IoU of the mask.",
    ),
    Cause(
        "segment-threshold", "Segments are dropped or kept at the wrong score",
        "Set OBJECT_MASK_THRESHOLD (in transformers, threshold of "
        "post_process_panoptic_segmentation) to the listed value, or train longer.",
    ),
    Cause(
        "class-head", "The class head wastes what the queries know",
        "Train the class head again with the rest of the model frozen.",
    ),
    Cause(
        "localisation", "Masks are too small or too large",
        "Check the threshold of mask logits and the bias of the mask head; train further with "
        "this threshold.",
    ),
    Cause(
        "mask-head", "The mask head wastes what the queries know",
        "Train the mask head again with the rest of the model frozen.",
    ),
    Cause(
        "label-noise", "Objects have the wrong class in the annotations",
        "Check the classes of the listed objects.",
    ),
    Cause(
        "missing-labels", "Objects are not annotated",
        "Annotate the listed detections.",
    ),
)  # fmt: skip

CAUSES: Mapping[str, Cause] = MappingProxyType({cause.name: cause for cause in _CAUSES})
"""Name -> cause, the most specific first: of two that explain the same errors, the earlier wins."""

SPECIFICITY: Mapping[str, int] = MappingProxyType(
    {cause.name: place for place, cause in enumerate(_CAUSES)}
)
