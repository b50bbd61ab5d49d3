"""Base class of the families of transformers models."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from mpdiag.recording.family import Family, is_instance_by_name, known_families
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall

if TYPE_CHECKING:
    from mpdiag.config import LossConfig


# Canonical name -> dimension of the queries.
_QUERY_DIMENSION = {
    "query": 1,
    "class_logits": 1,
    "mask_logits": 1,
    "attention_mask": 1,
    "cross_attention": 2,
}


class TransformersFamily(Family):
    """A family of transformers models, which `mpdiag analyze` loads, runs, matches and scores.

    Attributes:
        model_classes: `model_type` of config.json -> name of the class.
        takes_images: whether the inputs are images, so that the models can be analysed.
        loss_keys: key of config.json -> field of LossConfig. Empty if the models match by other
            costs; they are then matched by Mask2Former's.
        processor_options: further arguments of AutoImageProcessor.from_pretrained.
        text_processor: name of the processor class that adds a tokenizer to the image processor;
            None if the models take images alone.
    """

    model_classes: ClassVar[Mapping[str, str]]
    takes_images: bool = True
    loss_keys: ClassVar[Mapping[str, str]] = {}
    processor_options: ClassVar[Mapping[str, Any]] = {}
    text_processor: str | None = None

    def matches(self, model: nn.Module) -> bool:
        return is_instance_by_name(model, "transformers", *self.model_classes.values())

    def loss_config(self, model: Any, source: str) -> "LossConfig":
        return self.loss_from_settings(model.config.to_dict(), source)

    def loss_from_settings(
        self, settings: Mapping[str, Any], source: str, default: "LossConfig | None" = None
    ) -> "LossConfig":
        """Return costs and loss weights of a config.json; `default` for keys that it lacks.

        Raises:
            ConfigError: a value has the wrong type.
        """
        from mpdiag.config import LossConfig, parse  # need pydantic; recording does not

        default = default or LossConfig()
        given = {ours: settings[key] for key, ours in self.loss_keys.items() if key in settings}
        return parse(LossConfig, default.model_dump() | given, source)


def matching_part(specs: HookSpecs, num_queries: int) -> HookSpecs:
    """Return hooks that read only the last `num_queries` queries.

    mpdiag.integrations.transformers.MaskPiloting adds MP queries before them.
    """

    def last_queries(spec: HookSpec, dimension: int) -> HookSpec:
        def cut(tensor: Tensor) -> Tensor:
            return tensor.narrow(dimension, tensor.shape[dimension] - num_queries, num_queries)

        def read(call: ModuleCall) -> Any:
            value = spec.read(call)
            return [cut(x) for x in value] if isinstance(value, list) else cut(value)

        return replace(spec, read=read)

    return {
        name: last_queries(spec, _QUERY_DIMENSION[name]) if name in _QUERY_DIMENSION else spec
        for name, spec in specs.items()
    }


def transformers_families() -> dict[str, TransformersFamily]:
    """Return the family of each `model_type` whose models take images."""
    return {
        model_type: family
        for family in known_families()
        if isinstance(family, TransformersFamily) and family.takes_images
        for model_type in family.model_classes
    }
