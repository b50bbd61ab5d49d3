"""Models with HookPoint modules of canonical names."""

import inspect
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.errors import RecordingError
from mpdiag.recording.canonical_names import CANONICAL_NAMES
from mpdiag.recording.decoder_states import SIGMOID_NOTE
from mpdiag.recording.family import Family, is_instance_by_name
from mpdiag.recording.hook_point import HookPoint
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall

_CLASS_LOGITS = ("class_logits", "piloted_class_logits")


def is_mpdiag_mask2former(module: nn.Module) -> bool:
    """Return whether `module` is mpdiag.models.Mask2Former."""
    return is_instance_by_name(module, "mpdiag", "Mask2Former")


class HookPointFamily(Family):
    """Any model that contains `HookPoint` modules of canonical names."""

    name = "mpdiag hook points"

    def matches(self, model: nn.Module) -> bool:
        return _is_model(model) and not _has_sigmoids(model)

    def hooks(self, model: Any) -> HookSpecs:
        # The number of calls is the number of layers; the MP part may not run.
        return {
            name: HookSpec([point], None, lambda call: call.output)
            for name, point in _points(model).items()
        }

    def mask_stride(self, model: Any) -> int:
        return _points(model)["mask_logits"].stride


class SigmoidHookPointFamily(HookPointFamily):
    """Such a model whose hook point of class logits says `sigmoid=True`."""

    name = "mpdiag hook points (sigmoid)"
    notes = (SIGMOID_NOTE,)
    instance_rule = "sigmoid"

    def matches(self, model: nn.Module) -> bool:
        return _is_model(model) and _has_sigmoids(model)

    def hooks(self, model: Any) -> HookSpecs:
        points = _points(model)
        for name, point in points.items():
            if point.sigmoid and name not in _CLASS_LOGITS:
                raise RecordingError(
                    f"hook point {name}: sigmoid=True is a setting of class_logits; remove it here"
                )
        with_no_object = {
            name: HookSpec([points[name]], None, _append_no_object)
            for name in _CLASS_LOGITS
            if name in points
        }
        return {**super().hooks(model), **with_no_object}


def _append_no_object(call: ModuleCall) -> Any:
    """Return (B, N, K + 1) class logits of a layer, or of a list of layers."""
    output: Tensor | list[Tensor] = call.output
    if isinstance(output, Tensor):
        return F.pad(output, (0, 1))
    return [F.pad(logits, (0, 1)) for logits in output]


def _is_model(model: nn.Module) -> bool:
    """Return whether `model` has hook points and is neither a wrapper nor mpdiag's own model."""
    count = _count_points(model)
    if not count or isinstance(model, HookPoint) or _is_wrapper(model, count):
        return False
    return not any(map(is_mpdiag_mask2former, model.modules()))


def _has_sigmoids(model: nn.Module) -> bool:
    return any(isinstance(inside, HookPoint) and inside.sigmoid for inside in model.modules())


def _points(model: nn.Module) -> dict[str, HookPoint]:
    """Return the hook points by name; RecordingError for another name, or two of one name."""
    points: dict[str, HookPoint] = {}
    for path, module in model.named_modules():
        name = path.rpartition(".")[2]
        if isinstance(module, HookPoint):
            if name not in CANONICAL_NAMES:
                raise RecordingError(
                    f"hook point {path}: {name!r} is not a canonical name; call the attribute one "
                    f"of {', '.join(CANONICAL_NAMES)}"
                )
            if name in points:
                raise RecordingError(
                    f"{type(model).__name__}: has 2 hook points called {name}; record a module "
                    "that has one"
                )
            points[name] = module
    return points


def _count_points(module: nn.Module) -> int:
    return sum(isinstance(inside, HookPoint) for inside in module.modules())


def _is_wrapper(module: nn.Module, count: int) -> bool:
    """Return whether a module inside `module` has all its `count` hook points and is the model.

    Wrappers such as DistributedDataParallel pass any arguments on, without knowing their names.
    Containers have no forward pass, for which torch has the same signature. A training step of
    Lightning may call the module inside, too, whatever `forward` its module defines. The module
    inside has a forward pass and all parameters: a decoder after a backbone is not the model.
    """
    inputs = list(inspect.signature(type(module).forward).parameters.values())[1:]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    passes_on = inputs and all(one.kind in variadic for one in inputs)
    is_lightning = any(
        is_instance_by_name(module, package, "LightningModule")
        for package in ("pytorch_lightning", "lightning")
    )
    if not (passes_on or is_lightning):
        return False
    parameters = len(list(module.parameters()))
    return any(
        _count_points(inside) == count and len(list(inside.parameters())) == parameters
        for inside in module.modules()
        if inside is not module
        and not isinstance(inside, HookPoint)
        and type(inside).forward is not nn.Module.forward
    )
