"""Model families: everything mpdiag knows about the models of one library and architecture.

A family is declared in one file of `mpdiag/recording/families`, or registered with `register`. It
identifies its models by the names of their classes, so it does not import their library.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from mpdiag.errors import RecordingError
from mpdiag.recording.hook_spec import HookSpecs
from mpdiag.recording.intervention_points import InterventionPoints

if TYPE_CHECKING:
    from mpdiag.config import LossConfig

EXAMPLE = "examples/own_model.py"

InstanceRule = Literal["mask2former", "detr", "sigmoid"]
"""How instances are extracted from queries, after the post-processing of one library.

mask2former  the most probable pairs of query and class, scored by mask quality as well
detr         each query once, with its most probable class, scored by that class alone (DETR,
             PostProcess and PostProcessSegm)
sigmoid      the pairs with the highest scores, each class against no-object (Conditional DETR and
             RF-DETR, which have a sigmoid per class); masks are resized in one step (RF-DETR)
"""


class Family(ABC):
    """Declaration of a model family: how to identify, record, match and score its models.

    Attributes:
        name: name of the family in recordings and run directories.
        notes: sentences that a reader of the recorded values must know, for example that the
            recorder, not the model, predicted the masks of a layer.
        instance_rule: how instances are scored.
    """

    name: str
    notes: tuple[str, ...] = ()
    instance_rule: InstanceRule = "mask2former"

    @abstractmethod
    def matches(self, model: nn.Module) -> bool:
        """Return whether `model` itself (not a module inside it) belongs to the family."""

    @abstractmethod
    def hooks(self, model: Any) -> HookSpecs:
        """Return the hooks that read each canonical name of a model that matches.

        It may read any attribute of the model. A missing attribute is reported as an unexpected
        structure of the model.
        """

    def matching_order(self, num_layers: int) -> Sequence[int]:
        """Return the layers in the order in which the model's own matcher is called.

        By default the last layer is first, as in DETR and Mask2Former.
        """
        return [num_layers - 1, *range(num_layers - 1)]

    def mask_stride(self, model: Any) -> int:
        """Return the pixels of the padded input per cell of the mask grid of `model`.

        `mpdiag.LayerMonitor` asks for it if the model receives a list of images and pads them
        itself; otherwise the size of the input is known. By default 4.
        """
        return 4

    def intervention_points(self, model: Any) -> InterventionPoints | None:
        """Return the parts of the decoder of `model` that interventions change.

        By default None: the family has no masked attention, or interventions do not support it.
        """
        return None

    def loss_config(self, model: Any, source: str) -> "LossConfig":
        """Return the matching costs and points of `model`; by default those of Mask2Former.

        Args:
            model: a model that matches.
            source: name of the model for errors.
        """
        from mpdiag.config import LossConfig  # needs pydantic; recording does not

        return LossConfig()


_FAMILIES: list[Family] = []


def register(family: Family) -> Family:
    """Add a family to those that `mpdiag.record` knows, and ask it before all others.

    A family of the same name is replaced, so that a notebook cell can run twice. An example for a
    model that calls its modules `classify` and `mask_head` once per layer:

        from mpdiag.recording import Family, HookSpec, first_output, register

        class SegmenterFamily(Family):
            name = "my segmenter"

            def matches(self, model):
                return type(model).__name__ == "Segmenter"

            def hooks(self, model):
                layers = len(model.layers) + 1
                return {
                    "class_logits": HookSpec([model.classify], layers, first_output),
                    "mask_logits": HookSpec([model.mask_head], layers, first_output),
                }

        register(SegmenterFamily())

    Raises:
        RecordingError: `family` is not an instance of `Family`.
    """
    if not isinstance(family, Family):
        raise RecordingError(f"{family!r}: not an instance of Family; register an instance")
    _FAMILIES[:] = [family, *(known for known in _FAMILIES if known.name != family.name)]
    return family


def known_families() -> list[Family]:
    """Return all registered families, in the order in which they are asked."""
    return list(_FAMILIES)


def is_instance_by_name(module: nn.Module, package: str, *names: str) -> bool:
    """Return whether a class of `module` or a base of it has this package and one of the names."""
    return any(
        cls.__name__ in names and cls.__module__.partition(".")[0] == package
        for cls in type(module).__mro__
    )


def family_of(model: nn.Module) -> Family:
    """Return the family of `model` or of a model inside it; RecordingError as `find_family`."""
    return find_family(model)[0]


def find_family(model: nn.Module) -> tuple[Family, nn.Module]:
    """Return the family of `model` and the module that it matches: `model` or one inside it.

    Raises:
        RecordingError: no family matches, or several modules inside `model` match one.
    """
    found: dict[str, tuple[Family, nn.Module]] = {}
    for path, module in model.named_modules():
        if any(not outer or path.startswith(f"{outer}.") for outer in found):
            continue
        family = next((family for family in _FAMILIES if family.matches(module)), None)
        if family is not None:
            found[path] = (family, module)
    if len(found) == 1:
        return next(iter(found.values()))
    what = _describe(model)
    if found:
        paths = ", ".join(f"{path} ({family.name})" for path, (family, _) in found.items())
        raise RecordingError(f"{what}: contains {len(found)} models ({paths}); record one of them")
    known = ", ".join(family.name for family in _FAMILIES)
    raise RecordingError(
        f"{what}: no known family matches it or a module in it; known families are {known}; write "
        f"an adapter of about ten lines as in help(mpdiag.recording.register) and {EXAMPLE}"
    )


def _describe(model: nn.Module) -> str:
    """Return the class of a model and of its first child modules."""
    children = [f"{name}: {type(child).__name__}" for name, child in model.named_children()]
    listed = ", ".join(children[:8]) + (", ..." if len(children) > 8 else "")
    cls = f"{type(model).__module__}.{type(model).__qualname__}"
    return f"{cls} ({listed})" if children else cls
