"""A callback of Lightning that logs what each decoder layer predicts."""

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpdiag.errors import ConfigError, DataError
from mpdiag.extras import missing
from mpdiag.integrations.batch import find_targets
from mpdiag.integrations.layer_losses import find_criterion
from mpdiag.integrations.monitor import LayerMonitor, require_new_run, write_final_run

try:  # `lightning` installs this package as well, and calls callbacks of both
    from pytorch_lightning import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "pytorch_lightning":
        raise  # it is installed, but not what it imports
    raise missing("lightning", "mpdiag.integrations.lightning") from None


_LOG = logging.getLogger(__name__)


def _callback_of_lightning() -> Any:
    """Return the Callback of `lightning`, which its LightningCLI requires; object without it."""
    try:
        return importlib.import_module("lightning.pytorch").Callback
    except ModuleNotFoundError:
        return object


_LightningCallback: Any = _callback_of_lightning()


class LayerDiagnosticsCallback(Callback, _LightningCallback):  # type: ignore[misc]
    """Logs the values of `mpdiag.LayerMonitor` to the trainer's loggers and metrics:

        trainer = Trainer(..., callbacks=[LayerDiagnosticsCallback()])

    Training values come from every `every`-th step, validation values (with the prefix `val/`) from
    the first images of each validation. The GT are those of the batch, or of the model's inputs.
    """

    def __init__(
        self,
        *,
        model: str = "",
        every: int = 50,
        val_images: int = 100,
        targets: Callable[[Any], Any] = find_targets,
        run: str | Path | None = None,
        check_finite: bool = True,
    ) -> None:
        """Set the options.

        Args:
            model: path of the model in the module, such as "student.model", if it contains several.
            every: number of optimizer steps from one measurement to the next.
            val_images: number of images that each process measures in a validation.
            targets: function that returns the GT of a batch, in a form that `LayerMonitor.step`
                takes. By default it looks for such forms in the batch.
            run: new run directory to write at the end of training, from the last validation. If
                it is not empty, the training raises RunError at its start.
            check_finite: whether predictions with NaN or infinity raise NonFiniteError.
        """
        self._model, self._every, self._val_images = model, every, val_images
        self._targets = targets
        self._run = None if run is None else Path(run)
        self._check_finite = check_finite
        self._warned: set[str] = set()
        self.monitor: LayerMonitor | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._attach(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._run is not None:
            require_new_run(self._run)
        if self.monitor:
            self.monitor.iteration = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self.monitor is None:
            return
        self._measure(self.monitor, batch)
        if trainer.global_step == self.monitor.iteration:
            return  # more batches of this step follow
        values = self.monitor.step()
        if values:
            pl_module.log_dict(values, logger=False)
            # log_dict reaches the loggers only at multiples of log_every_n_steps.
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._attach(pl_module)
        if self.monitor:
            # The check before the training would leave the rows of a model that is not trained.
            keep_rows = self._run is not None and not trainer.sanity_checking
            self.monitor.start_evaluation(self._val_images, keep_rows=keep_rows)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.monitor is None:
            return
        try:
            self._measure(self.monitor, batch)
        except DataError as error:  # of a validation that crops or resizes images on its own
            self._warn(f"this batch of the validation is not measured: {error}")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor is None:
            return
        values = self.monitor.finish_evaluation()
        if not values and self._val_images and not self._warned:
            self._warn(
                "no pass of the validation was measured; it may run a copy of the model (EMA)"
            )
        if not trainer.sanity_checking:
            named = {f"val/{name}": value for name, value in values.items()}
            pl_module.log_dict(named, sync_dist=trainer.world_size > 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor and self._run:
            write_final_run(self.monitor, self._run)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self.monitor:  # there is no teardown
            self.monitor.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.monitor:
            self.monitor.close()

    def _warn(self, message: str) -> None:
        """Log a warning once."""
        if message not in self._warned:
            self._warned.add(message)
            _LOG.warning("%s", message)

    def _attach(self, pl_module: LightningModule) -> None:
        """Attach to the model, which `setup` or `configure_model` of the module may have built."""
        if self.monitor:
            self.monitor.close()
        try:
            model = pl_module.get_submodule(self._model)
        except AttributeError as error:
            raise ConfigError(
                f"model = {self._model!r}: is not in {type(pl_module).__name__} ({error}); give "
                "the path of a module in it"
            ) from None
        self.monitor = LayerMonitor(
            model,
            every=self._every,
            criterion=find_criterion(pl_module),  # may be outside of the model
            check_finite=self._check_finite,
        )

    def _measure(self, monitor: LayerMonitor, batch: Any) -> None:
        if monitor.is_pending:  # the GT of other batches are not needed
            monitor.measure(self._targets(batch))
