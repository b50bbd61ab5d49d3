"""A hook of detectron2's trainer that logs what each decoder layer predicts."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mpdiag.analysis.module_state import preserve_state
from mpdiag.analysis.recorded_adapters import metadata_classes
from mpdiag.extras import missing
from mpdiag.integrations.batch import find_targets
from mpdiag.integrations.monitor import LayerMonitor, require_new_run, write_final_run
from mpdiag.integrations.processes import rank_and_count

try:
    from detectron2.engine import HookBase
    from detectron2.engine.hooks import PeriodicWriter
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "detectron2":
        raise  # it is installed, but not what it imports
    raise missing("detectron2", "mpdiag.integrations.detectron2") from None


class LayerDiagnosticsHook(HookBase):  # type: ignore[misc]
    """Puts the values of `mpdiag.LayerMonitor` in the trainer's EventStorage:

        trainer.register_hooks([LayerDiagnosticsHook()])

    Training values come from every `every`-th step. The GT are the `instances` of the batches. The
    test loaders of detectron2 give no GT, so pass batches of held-out images to measure them, too;
    their values have the prefix `held_out/`.
    """

    def __init__(
        self,
        *,
        every: int = 50,
        held_out: Iterable[Sequence[Mapping[str, Any]]] = (),
        eval_period: int = 0,
        batches: int = 50,
        run: str | Path | None = None,
        check_finite: bool = True,
    ) -> None:
        """Set the options.

        Args:
            every: number of steps from one measurement to the next.
            held_out: batches with `instances`, as a training loader without augmentation gives
                them, the same in all processes (the loaders of detectron2 give each its own). Each
                process keeps its part of the first ones in memory.
            eval_period: number of steps between measurements of `held_out`; 0 only at the end.
            batches: number of batches to take from `held_out`, of all processes together.
            run: new run directory to write at the end of training, from the held-out images. If
                it is not empty, `before_train` raises RunError.
            check_finite: whether predictions with NaN or infinity raise NonFiniteError.
        """
        self._every, self._check_finite = every, check_finite
        rank, count = rank_and_count()
        first = list(islice(held_out, batches))
        # Also of a list that all processes share, each batch is measured once.
        self._has_held_out, self._held_out = bool(first), first[rank::count]
        self._eval_period = eval_period
        self._run = None if run is None else Path(run)
        self.monitor: LayerMonitor | None = None
        self._handle: Any = None

    def before_train(self) -> None:
        if self.trainer.start_iter >= self.trainer.max_iter:
            self._run = None  # a finished training was resumed; nothing will be measured
        if self._run is not None and self._has_held_out:
            require_new_run(self._run)
        # Writers drop values that a later hook puts after the last step.
        hooks = self.trainer._hooks
        writers = [index for index, hook in enumerate(hooks) if isinstance(hook, PeriodicWriter)]
        if self in hooks and writers and writers[0] < hooks.index(self):
            hooks.remove(self)
            hooks.insert(writers[0], self)
        self.monitor = LayerMonitor(
            self.trainer.model, every=self._every, check_finite=self._check_finite
        )
        self.monitor.iteration = self.trainer.start_iter
        # Models that do not pass the GT on to the part that is recorded, as mpdiag's own.
        self._handle = self.trainer.model.register_forward_hook(self._measure)

    def after_step(self) -> None:
        assert self.monitor is not None
        self._put(self.monitor.step(), "")
        done = self.trainer.iter + 1
        is_last = done == self.trainer.max_iter
        if self._has_held_out and (
            is_last or (self._eval_period and done % self._eval_period == 0)
        ):
            self._put(self._evaluate(self.monitor), "held_out/")

    def after_train(self) -> None:
        if self.monitor is None:
            return
        # detectron2 calls it after an exception, too; then `iter` is that of the failed step.
        is_finished = self.trainer.iter >= self.trainer.max_iter
        if is_finished and self._run is not None and self._has_held_out:
            write_final_run(self.monitor, self._run, _class_names(_unwrapped(self.trainer.model)))
        self.monitor.close()
        self._handle.remove()

    @torch.no_grad()
    def _evaluate(self, monitor: LayerMonitor) -> dict[str, float]:
        model = self.trainer.model
        alone = _unwrapped(model)
        monitor.start_evaluation(sum(map(len, self._held_out)), keep_rows=self._run is not None)
        with preserve_state(model):  # a part may be frozen in evaluation mode
            model.eval()
            for batch in self._held_out:
                self._measure(alone, (batch,), alone(batch))
        return monitor.finish_evaluation()

    def _measure(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Measure a pass with the GT of the batch, if the recorded module did not receive it."""
        assert self.monitor is not None
        if self.monitor.is_pending:
            self.monitor.measure(find_targets(args))

    def _put(self, values: Mapping[str, float], prefix: str) -> None:
        for name, value in values.items():
            self.trainer.storage.put_scalar(f"{prefix}{name}", value, smoothing_hint=False)


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return a model without DistributedDataParallel, whose passes wait for other processes."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def _class_names(model: Any) -> list[str] | None:
    """Return the names in the metadata of an official model; None for another model."""
    head = getattr(model, "sem_seg_head", None)
    return None if head is None else metadata_classes(model, int(head.num_classes))
