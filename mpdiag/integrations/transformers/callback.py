"""A callback of transformers' Trainer that logs what each decoder layer predicts."""

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mpdiag.errors import ConfigError, RecordingError
from mpdiag.integrations.monitor import LayerMonitor, require_new_run, write_final_run
from mpdiag.recording.uncopied_hook import UncopiedHook

# The callback of each model; a model is measured by the last one.
_ATTACHED: weakref.WeakKeyDictionary[nn.Module, weakref.ref["LayerDiagnosticsCallback"]]
_ATTACHED = weakref.WeakKeyDictionary()


class LayerDiagnosticsCallback(TrainerCallback):
    """Logs the values of `mpdiag.LayerMonitor` through `Trainer.log`:

        trainer.add_callback(LayerDiagnosticsCallback(trainer))

    Training values come from every `every`-th step, evaluation values from the first images of each
    evaluation. Those have the prefix of the Trainer's own metrics: `eval_`, or `eval_NAME_` for
    each of several data sets. The GT are the labels that the model receives.

    Training passes are measured until the end of `trainer.train()`, evaluations as long as the
    trainer exists, until `close`, or until another callback attaches to the model.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        every: int = 50,
        eval_images: int = 100,
        run: str | Path | None = None,
        check_finite: bool = True,
    ) -> None:
        """Attach to the model of a trainer.

        Args:
            trainer: the trainer whose `log` is called. Callbacks do not receive it.
            every: number of optimizer steps from one measurement to the next.
            eval_images: number of images that each process measures in an evaluation.
            run: new run directory to write at the end of training, from the last evaluation. If
                it is not empty, the training raises RunError at its start.
            check_finite: whether predictions with NaN or infinity raise NonFiniteError.

        Raises:
            RecordingError: no family matches the model, or it is compiled.
        """
        # The model holds the callback; it must not hold the trainer with its optimizer and data.
        self._trainer, self._eval_images = weakref.ref(trainer), eval_images
        self._run = None if run is None else Path(run)
        self._settings: dict[str, Any] = {"every": every, "check_finite": check_finite}
        self.monitor: LayerMonitor | None = None
        self._model: Any = None
        self._before_handle: Any = None
        self._loader: object = None  # of the evaluation that is measured
        if trainer.model is not None:
            self._attach(trainer.model)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if args.torch_compile:
            raise RecordingError(
                "torch_compile: compiled code may not call forward hooks; set torch_compile=False, "
                "or leave out LayerDiagnosticsCallback"
            )
        if args.n_gpu > 1:
            raise ConfigError(
                f"{args.n_gpu} GPUs in one process: DataParallel copies the model for each pass; "
                "start the script with torchrun"
            )
        if self._run is not None and state.global_step < state.max_steps:
            require_new_run(self._run)
        self._attach(kwargs["model"]).iteration = state.global_step

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        values = self.monitor.step() if self.monitor else {}
        if values:
            should_log = control.should_log
            self._log(values)
            control.should_log = should_log  # log resets it, and the Trainer's own log is due

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self.monitor is None:
            return
        values = self.monitor.finish_evaluation()
        if values:
            prefix = _prefix(kwargs.get("metrics") or {})
            self._log({f"{prefix}_{name}": value for name, value in values.items()})
        self._start_evaluation(self.monitor)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self.monitor is None:
            return
        self.monitor.finish_training()
        if self._run is not None:
            names = getattr(self._model.config, "id2label", None)
            classes = names and [names[key] for key in sorted(names)]
            write_final_run(self.monitor, self._run, classes)

    def close(self) -> None:
        """Remove all hooks from the model, for example after `trainer.remove_callback`."""
        if self.monitor is not None:
            self.monitor.close()
            self._before_handle.remove()
        self.monitor = self._model = None

    def _log(self, values: dict[str, float]) -> None:
        trainer = self._trainer()
        assert trainer is not None  # it calls this callback
        trainer.log(values)

    def _attach(self, model: Any) -> LayerMonitor:
        """Return the monitor of a model; `model_init` may have made another one."""
        if self.monitor is None or model is not self._model:
            self.close()
            other = _ATTACHED[model]() if model in _ATTACHED else None
            if other is not None:
                other.close()
            _ATTACHED[model] = weakref.ref(self)
            self._model = model
            self.monitor = LayerMonitor(model, **self._settings)
            self._start_evaluation(self.monitor)
            self._before_handle = model.register_forward_pre_hook(
                UncopiedHook(self._before), prepend=True
            )
        return self.monitor

    def _start_evaluation(self, monitor: LayerMonitor) -> None:
        monitor.start_evaluation(self._eval_images, keep_rows=self._run is not None)

    def _before(self, module: nn.Module, args: Any) -> None:
        """Start anew at the first pass of an evaluation, for which the Trainer has no event.

        Passes before it were those of `predict`, of an evaluation that failed, or of the user.
        """
        trainer = self._trainer()
        if trainer is None:
            self.close()
        if trainer is None or module.training or self.monitor is None:
            return
        loader = trainer.callback_handler.eval_dataloader
        if loader is not self._loader:
            self._loader = loader
            self._start_evaluation(self.monitor)


def _prefix(metrics: Mapping[str, Any]) -> str:
    """Return the prefix of the Trainer's metrics, to all of which it adds the runtime."""
    names = [key.removesuffix("_runtime") for key in metrics if key.endswith("_runtime")]
    return names[-1] if names else "eval"
