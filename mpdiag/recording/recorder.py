"""The recorder: a context manager that records every forward pass of a model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.errors import RecordingError
from mpdiag.recording.canonical_names import (
    CANONICAL_NAMES,
    DIMENSIONS,
    LARGE_TENSORS,
    select_names,
)
from mpdiag.recording.compiled import require_uncompiled
from mpdiag.recording.family import Family, find_family
from mpdiag.recording.hook_spec import HookSpec, HookSpecs, ModuleCall
from mpdiag.recording.recording import Recording
from mpdiag.recording.reduction import Reduction, compose_reductions
from mpdiag.recording.uncopied_hook import UncopiedHook

_PREDICTIONS = ("class", "mask")


@contextmanager
def record(
    model: nn.Module,
    only: str | Sequence[str] | None = None,
    reduce: str | Reduction | Sequence[str | Reduction] = (),
) -> Iterator[Recording]:
    """Record every forward pass of `model` inside the `with` block; remove all hooks on exit.

    The recording holds the tensors of the last pass. The hooks do not change the model's outputs.

    Args:
        model: a model of a known family (`mpdiag.recording.known_families()`), or a module that
            contains one.
        only: one or several canonical names or shell patterns. None records every name of the
            family except the large tensors (`cross_attention`, `sampling_locations`). Other
            tensors are neither hooked nor kept.
        reduce: reductions to apply to each tensor, in order: `binary`, `pool:K`, `mean-heads`,
            `host`, or functions of a name and a tensor (see mpdiag.recording.reduction).

    Raises:
        RecordingError: `model` is not a module, belongs to no known family, is compiled, is copied
            by DataParallel, or has no tensor of a requested name; `reduce` is unknown. A forward
            pass raises it if the model calls its layers a different number of times or in a
            different way than expected.
    """
    recorder = Recorder(model, only, reduce)
    module = recorder.module
    with ExitStack() as hooks:
        hooks.callback(recorder.remove)
        recorder.attach()
        # Begin before and end after all other hooks on the same module.
        begin = UncopiedHook(lambda *_: recorder.begin())
        before = module.register_forward_pre_hook(begin, prepend=True)
        hooks.callback(before.remove)
        after = module.register_forward_hook(UncopiedHook(lambda *_: recorder.end()))
        hooks.callback(after.remove)
        yield recorder.recording


def _hook_specs(family: Family, module: nn.Module) -> HookSpecs:
    try:
        specs = family.hooks(module)
    except (AttributeError, IndexError, KeyError) as error:
        raise RecordingError(
            f"{type(module).__name__}: does not have the structure that the family {family.name} "
            f"expects ({error}); this version of its library may not be supported"
        ) from error
    required = {name for spec in specs.values() for name in spec.requires}
    unknown = [name for name in specs if name not in CANONICAL_NAMES and name not in required]
    if unknown:
        raise RecordingError(
            f"{family.name}: hook {unknown[0]!r} has no canonical name and no other hook requires "
            f"it; the canonical names are {', '.join(CANONICAL_NAMES)}"
        )
    return specs


def _requested_names(family: Family, specs: HookSpecs, only: Sequence[str] | None) -> list[str]:
    """Return the names to record; RecordingError for a pattern that matches none of the family."""
    available = [name for name in CANONICAL_NAMES if name in specs]
    if only is None:
        return [name for name in available if name not in LARGE_TENSORS]
    for pattern in only:
        if not set(select_names([pattern])) & set(available):
            raise RecordingError(
                f"{pattern}: {family.name} does not have it; it has {', '.join(available)}"
            )
    return [name for name in select_names(only) if name in available]


class Recorder:
    """The hooks on a model and the tensors that they read; the caller says where a pass begins.

    `record` serves most purposes. A caller that records only some passes attaches the hooks before
    such a pass, also from a pre-hook of the model.

    Attributes:
        family: family of the model.
        module: the model that the family matches: the given module, or one inside it.
        recording: the tensors of the last pass that ended.
    """

    def __init__(
        self,
        model: nn.Module,
        only: str | Sequence[str] | None = None,
        reduce: str | Reduction | Sequence[str | Reduction] = (),
    ) -> None:
        """Find the modules to hook; see `record` for the arguments and errors."""
        if not isinstance(model, nn.Module):
            raise RecordingError(
                f"{type(model).__name__}: not a torch.nn.Module; load the model first, for example "
                "with mpdiag.load_model"
            )
        require_uncompiled(model)
        _require_one_replica(model)
        self.family, self.module = find_family(model)
        self._specs = _hook_specs(self.family, self.module)
        only = [only] if isinstance(only, str) else only
        self._requested = _requested_names(self.family, self._specs, only)
        self.recording = Recording(
            self.family.name, self.family.notes, self._requested, available=self._specs
        )
        self._reduce = compose_reductions(reduce)
        self._mask_size: tuple[int, int] | None = None
        self._handles: list[Any] = []
        self._counts: dict[str, int] = {}
        self._layers: dict[str, list[Tensor]] = {}
        self._required: dict[str, Any] = {}
        self._sizes: dict[str, list[tuple[int, int]]] = {}  # (B, N) of the layers of a pass
        self._enabled = False

    @property
    def num_layers(self) -> int | None:
        """L + 1, the number of predictions of a pass; None if a pass may have any number."""
        spec = self._specs["mask_logits"]
        if spec.num_layers is None or spec.to_layers is None:
            return spec.num_layers
        return len(spec.to_layers([torch.empty(0)] * spec.num_layers))

    def attach(self) -> None:
        """Register the hooks of all layers. They read nothing outside of a pass."""
        names = _with_requirements(self._specs, self._requested)
        required = {name for hooked in names for name in self._specs[hooked].requires}
        self._counts = dict.fromkeys(names, 0)
        for name in names:
            hook = UncopiedHook(
                self._hook(name, self._specs[name], name in required, name in self._requested)
            )
            for hooked_module in self._specs[name].modules:
                self._handles.append(hooked_module.register_forward_hook(hook, with_kwargs=True))

    def remove(self) -> None:
        """Remove all hooks, also in a pass, whose tensors are dropped."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._layers, self._required = {}, {}
        self._enabled = False

    def begin(self) -> None:
        """Begin a pass and empty the recording."""
        self.recording.replace({})
        self._counts = dict.fromkeys(self._counts, 0)
        self._layers, self._required, self._sizes = {}, {}, {}
        self._enabled = True

    def end(self) -> None:
        """End a pass and fill the recording.

        Raises:
            RecordingError: the pass produced more or fewer layers than the model has, or classes
                and masks of different images or queries.
        """
        self._enabled = False
        self._required = {}
        for name, count in self._counts.items():
            expected = self._specs[name].num_layers
            if expected is not None and count != expected:
                raise RecordingError(
                    f"{name}: the forward pass produced {count} layers, but {self.family.name} "
                    f"has {expected}; layers were skipped or repeated, so disable layer drop or "
                    "use evaluation mode"
                )
        self._require_equal_queries()
        ordered = {}
        for name, layers in self._layers.items():
            to_layers = self._specs[name].to_layers
            ordered[name] = layers if to_layers is None else to_layers(layers)
        self._layers = {}
        self.recording.replace(ordered, self._mask_size)

    def _hook(
        self, name: str, spec: HookSpec, required: bool, requested: bool
    ) -> Callable[..., None]:
        canonical = name in CANONICAL_NAMES

        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
        ) -> None:
            if not self._enabled:  # outside a pass, or called while another hook reads
                return
            self._enabled = False
            try:
                with torch.no_grad():
                    call = ModuleCall(module, args, kwargs, output, self._required)
                    value = self._read(name, spec, call)
                    layers = self._layers_of_call(name, value) if canonical else [value]
                    self._counts[name] += len(layers)
                    if required:
                        self._required[name] = value
                    if requested:
                        self._keep(name, layers)
            finally:
                self._enabled = True

        return hook

    def _read(self, name: str, spec: HookSpec, call: ModuleCall) -> Any:
        try:
            return spec.read(call)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise RecordingError(
                f"{name}: can't be read, because {type(call.module).__name__} is not called as "
                f"{self.family.name} expects ({error})"
            ) from error

    def _layers_of_call(self, name: str, value: Any) -> list[Tensor]:
        """Return the layers that a call gave; RecordingError if they do not have the shape."""
        layers = list(value) if isinstance(value, (list, tuple)) else [value]
        for layer in layers:
            is_tensor = isinstance(layer, Tensor)
            if not is_tensor or layer.ndim != DIMENSIONS[name]:
                found = f"a tensor {tuple(layer.shape)}" if is_tensor else type(layer).__name__
                raise RecordingError(
                    f"{name}: {self.family.name} gives {found}, but it must be "
                    f"{CANONICAL_NAMES[name]}; one call gives one layer, or a list of layers"
                )
        return layers

    def _require_equal_queries(self) -> None:
        """Raise RecordingError if classes and masks are not those of the same queries."""
        for prefix in ("", "piloted_"):
            classes, masks = (self._sizes.get(f"{prefix}{kind}_logits") for kind in _PREDICTIONS)
            if classes and masks and set(classes) != set(masks):
                raise RecordingError(
                    f"{prefix}class_logits: {_describe_sizes(classes)}, but {prefix}mask_logits: "
                    f"{_describe_sizes(masks)}; give both as (B, N, ...)"
                )

    def _keep(self, name: str, layers: Sequence[Tensor]) -> None:
        self._sizes.setdefault(name, []).extend(
            (layer.shape[0], layer.shape[1]) for layer in layers
        )
        if name == "mask_logits" and layers:
            self._mask_size = (layers[0].shape[-2], layers[0].shape[-1])
        kept = [self._reduce(name, layer.detach()) for layer in layers]
        self._layers.setdefault(name, []).extend(kept)


def _describe_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    return " and ".join(f"{images} images of {queries} queries" for images, queries in set(sizes))


def _require_one_replica(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise RecordingError(
                f"DataParallel on {len(module.device_ids)} GPUs: copies the model for each pass, "
                "without the recorder's hooks; use DistributedDataParallel and torchrun, or record "
                "its .module on one GPU"
            )


def _with_requirements(specs: HookSpecs, requested: Sequence[str]) -> list[str]:
    """Return the requested names, each preceded by the names that its hook requires."""
    ordered: dict[str, None] = {}

    def add(name: str) -> None:
        for required in specs[name].requires:
            add(required)
        ordered[name] = None

    for name in requested:
        add(name)
    return list(ordered)
