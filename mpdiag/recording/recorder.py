"""The recorder: a context manager that hooks a model and cleans up behind itself."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.errors import RecordingError
from mpdiag.recording.compiled import refuse_compiled
from mpdiag.recording.family import Family, find
from mpdiag.recording.names import CANONICAL, LARGE, names
from mpdiag.recording.recording import Recording
from mpdiag.recording.reduction import Reduction, reduce_by
from mpdiag.recording.tap import Call, Tap, Taps


@contextmanager
def record(
    model: nn.Module,
    only: str | Sequence[str] | None = None,
    reduce: str | Reduction | Sequence[str | Reduction] = (),
) -> Iterator[Recording]:
    """Record every forward pass of `model` inside the `with`; all hooks are gone afterwards.

    Args:
        model: a model of a known family (`mpdiag.recording.known_families()`), or a module that
            holds one. It computes what it would compute without the hooks.
        only: a name or shell pattern, or several; if None all that the family has but the large
            ones (`cross_attention`, `sampling_locations`). Nothing else is hooked or kept.
        reduce: what makes each tensor smaller before it is kept, in turn: `binary`, `pool:K`,
            `mean-heads`, `host`, or functions of a name and a tensor (mpdiag.recording.reduction).

    Raises:
        RecordingError: `model` is no module, no family knows it, it has nothing of a wanted name,
            it is compiled, `reduce` is unknown, or (from the forward pass) it calls its layers
            another number of times or in another way than its family does.
    """
    if not isinstance(model, nn.Module):
        raise RecordingError(
            f"a model is recorded, not a {type(model).__name__}; mpdiag.load_model reads one "
            "from a path or hub id"
        )
    refuse_compiled(model)
    family, module = find(model)
    taps = _taps(family, module)
    wanted = _wanted(family, taps, [only] if isinstance(only, str) else only)
    recording = Recording(family.name, family.notes, wanted, has=taps)
    hooks = _Pass(family, taps, recording, reduce_by(reduce))
    try:
        hooks.attach(module, wanted)
        yield recording
    finally:
        hooks.remove()


def _taps(family: Family, module: nn.Module) -> Taps:
    try:
        taps = family.taps(module)
    except (AttributeError, IndexError, KeyError) as error:
        raise RecordingError(
            f"{type(module).__name__} is not built as {family.name} expects: {error}"
        ) from error
    needed = {need for tap in taps.values() for need in tap.needs}
    strange = [name for name in taps if name not in CANONICAL and name not in needed]
    if strange:
        raise RecordingError(
            f"{family.name} taps {strange[0]}, which is no canonical name and which no other tap "
            f"needs; there are {', '.join(CANONICAL)}"
        )
    return taps


def _wanted(family: Family, taps: Taps, only: Sequence[str] | None) -> list[str]:
    """The names to record; one that is asked for and that the family has not is refused."""
    given = [name for name in CANONICAL if name in taps]
    if only is None:
        return [name for name in given if name not in LARGE]
    for pattern in only:
        if not set(names([pattern])) & set(given):
            raise RecordingError(
                f"{family.name} has no {pattern}; what it has is {', '.join(given)}"
            )
    return [name for name in names(only) if name in given]


class _Pass:
    """The hooks on a model, and what they have read in the forward pass that is under way."""

    def __init__(self, family: Family, taps: Taps, recording: Recording, reduce: Reduction) -> None:
        self._family = family
        self._taps = taps
        self._recording = recording
        self._reduce = reduce
        self._mask_size: tuple[int, int] | None = None
        self._handles: list[Any] = []
        self._counts: dict[str, int] = {}
        self._layers: dict[str, list[Tensor]] = {}
        self._seen: dict[str, Any] = {}
        self._open = False

    def attach(self, module: nn.Module, wanted: Sequence[str]) -> None:
        hooked = _with_needs(self._taps, wanted)
        needed = {need for name in hooked for need in self._taps[name].needs}
        for name in hooked:
            hook = self._hook(name, self._taps[name], name in needed, name in wanted)
            for tapped in self._taps[name].modules:
                self._handles.append(tapped.register_forward_hook(hook, with_kwargs=True))
            self._counts[name] = 0
        # The pass begins before and ends after everything else that is hooked on the same module.
        self._handles.append(module.register_forward_pre_hook(self._begin, prepend=True))
        self._handles.append(module.register_forward_hook(self._end))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, *_: Any) -> None:
        self._recording._replace({})
        self._counts = dict.fromkeys(self._counts, 0)
        self._layers, self._seen = {}, {}
        self._open = True

    def _end(self, *_: Any) -> None:
        self._open = False
        self._seen = {}
        for name, count in self._counts.items():
            expected = self._taps[name].count
            if expected is not None and count != expected:
                raise RecordingError(
                    f"one forward pass made {name} in {count} layers, and {self._family.name} "
                    f"makes it in {expected}: layers were skipped or repeated, so that none can be "
                    "told from another (in training mode, layer drop does that)"
                )
        for name, layers in self._layers.items():
            gather = self._taps[name].gather
            self._layers[name] = layers if gather is None else gather(layers)
        self._recording._replace(self._layers, self._mask_size)

    def _hook(self, name: str, tap: Tap, needed: bool, wanted: bool) -> Callable[..., None]:
        canonical = name in CANONICAL

        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
        ) -> None:
            if not self._open:  # outside of a pass, or called by another tap that reads
                return
            self._open = False
            try:
                with torch.no_grad():
                    read = self._read(name, tap, Call(module, args, kwargs, output, self._seen))
                    layers = read if canonical and isinstance(read, list) else [read]
                    self._counts[name] += len(layers)
                    if needed:
                        self._seen[name] = read
                    if wanted:
                        self._keep(name, layers)
            finally:
                self._open = True

        return hook

    def _read(self, name: str, tap: Tap, call: Call) -> Any:
        try:
            return tap.read(call)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise RecordingError(
                f"{type(call.module).__name__} is not called as {self._family.name} expects, so "
                f"that {name} can't be read: {error}"
            ) from error

    def _keep(self, name: str, layers: Sequence[Tensor]) -> None:
        if name == "mask_logits":
            self._mask_size = (layers[0].shape[-2], layers[0].shape[-1])
        kept = [self._reduce(name, layer.detach()) for layer in layers]
        self._layers.setdefault(name, []).extend(kept)


def _with_needs(taps: Taps, wanted: Sequence[str]) -> list[str]:
    """The wanted names and, before each, those that its tap needs."""
    ordered: dict[str, None] = {}

    def add(name: str) -> None:
        for needed in taps[name].needs:
            add(needed)
        ordered[name] = None

    for name in wanted:
        add(name)
    return list(ordered)
