"""A callback of transformers' Trainer that logs what each decoder layer predicts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mpdiag.errors import ConfigError, RecordingError
from mpdiag.integrations.monitor import LayerMonitor, write_final_run
from mpdiag.recording.uncopied_hook import UncopiedHook


class LayerDiagnosticsCallback(TrainerCallback):
    """Logs the values of `mpdiag.LayerMonitor` through `Trainer.log`:

        trainer.add_callback(LayerDiagnosticsCallback(trainer))

    Training values come from every `every`-th step, evaluation values from the first images of each
    evaluation. Those have the prefix of the Trainer's own metrics: `eval_`, or `eval_NAME_` for
    each of several data sets. The GT are the labels that the model receives.
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
            run: run directory to write at the end of training, from the last evaluation.
            check_finite: whether predictions with NaN or infinity raise NonFiniteError.

        Raises:
            RecordingError: no family matches the model, or it is compiled.
        """
        self._trainer, self._eval_images = trainer, eval_images
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
            self._trainer.log(values)
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
            self._trainer.log({f"{prefix}_{name}": value for name, value in values.items()})
        self._start_evaluation(self.monitor)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self.monitor is None or self._run is None:
            return
        names = getattr(self._model.config, "id2label", None)
        write_final_run(self.monitor, self._run, names and [names[key] for key in sorted(names)])

    def _attach(self, model: Any) -> LayerMonitor:
        """Return the monitor of a model; `model_init` may have made another one."""
        if self.monitor is None or model is not self._model:
            if self.monitor is not None:
                self.monitor.close()
                self._before_handle.remove()
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
        if module.training or self.monitor is None:
            return
        loader = self._trainer.callback_handler.eval_dataloader
        if loader is not self._loader:
            self._loader = loader
            self._start_evaluation(self.monitor)


def _prefix(metrics: Mapping[str, Any]) -> str:
    """Return the prefix of the Trainer's metrics, to all of which it adds the runtime."""
    names = [key.removesuffix("_runtime") for key in metrics if key.endswith("_runtime")]
    return names[-1] if names else "eval"
