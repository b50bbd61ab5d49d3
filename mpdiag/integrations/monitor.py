"""A monitor of training: what each decoder layer predicts, from the steps' own forward passes."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from mpdiag.errors import ConfigError, MpdiagError, RecordingError, RunError
from mpdiag.integrations.batch import PredictionShape, find_targets, read_batch
from mpdiag.integrations.evaluation_rows import EvaluationRows
from mpdiag.integrations.finite_check import FiniteCheck, check_finite
from mpdiag.integrations.layer_losses import find_criterion
from mpdiag.integrations.measurement import Measurement
from mpdiag.losses import matching_costs
from mpdiag.matching import Matcher
from mpdiag.recording import Recorder, Recording
from mpdiag.recording.compiled import require_uncompiled
from mpdiag.recording.uncopied_hook import UncopiedHook

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pass:
    """A recorded pass that is not measured yet: (L + 1, B, N, ...) each, and the model's inputs."""

    class_logits: Tensor
    mask_logits: Tensor
    inputs: Mapping[str, Any]
    training: bool


class LayerMonitor:
    """Measures what each decoder layer predicts during training.

    Every `every` steps it records the step's own forward passes by hooks. It runs no pass of its
    own, and changes neither outputs nor random numbers:

        monitor = mpdiag.LayerMonitor(model, every=50)
        for images, targets in loader:
            ...  # forward, backward, optimizer.step()
            logger.log(monitor.step(targets))  # empty except every 50 steps
        monitor.close()  # or use it as a context manager

    Values are `NAME/LAYER` -> mean over the images of the step, in the conventions of
    docs/metrics.md: `miou_l` (layers 1..L), `util`, `instability` (layers 1..L), `empty_masks`,
    `duplicates`, the unweighted losses of each layer, and `dead_queries`, the number of queries
    that have matched no GT in the last layer at any measured step so far. Under torch.distributed
    the metrics are those of all processes, and the losses their mean over processes.

    Attributes:
        every: number of steps from one measurement to the next.
        family: name of the model's family.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 50,
        criterion: nn.Module | None = None,
        check_finite: bool = True,
    ) -> None:
        """Attach to a model.

        Args:
            model: a model of a known family (`mpdiag.recording.known_families()`), or a module
                that contains one, such as DistributedDataParallel.
            every: number of optimizer steps from one measurement to the next.
            criterion: module whose losses are logged; by default the one called `criterion` in
                `model`. Without one, the losses of Mask2Former are computed.
            check_finite: whether a prediction with NaN or infinity raises NonFiniteError: at every
                step if the model has a matcher of its own, otherwise at measured steps.

        Raises:
            ConfigError: `every` is not a positive number.
            RecordingError: no family matches the model, or it is compiled.
        """
        if every < 1:
            raise ConfigError(f"every = {every}: give a number of steps from 1 on")
        self.every = every
        self._recorder = Recorder(model, ["class_logits", "mask_logits"], self._check)
        family, module = self._recorder.family, self._recorder.module
        self.family = family.name
        self._stride = family.mask_stride(module)
        self._criterion = criterion or find_criterion(model)
        loss = family.loss_config(module, self.family)
        self._matcher = Matcher.on_fixed_points(matching_costs(loss), loss.num_points)
        self._signature = inspect.signature(type(module).forward)
        self._is_closed = False
        self._check_finite = check_finite
        self._checked: dict[str, int] = {}
        self._finite_check: FiniteCheck | None = None
        if check_finite:
            layers = self._recorder.num_layers
            order = [None] if layers is None else family.matching_order(layers)
            self._finite_check = FiniteCheck(module, order)
        self._before_handle = module.register_forward_pre_hook(
            UncopiedHook(self._before), with_kwargs=True
        )
        self._after_handle: Any = None
        self._inputs: Mapping[str, Any] = {}
        self._pending: dict[bool, _Pass] = {}  # by training mode, the last pass last
        self._step: Measurement | None = None
        self._evaluation: Measurement | None = None
        self._new_rows = EvaluationRows()
        # Of the last evaluation that is finished, and the steps before it.
        self._evaluation_rows, self._evaluation_step = self._new_rows, 0
        self._evaluation_limit, self._keep_rows = 0, True
        self._matches: Tensor | None = None
        self.iteration = 0

    @property
    def iteration(self) -> int:
        """Number of finished steps; set it when you resume a training."""
        return self._iteration

    @iteration.setter
    def iteration(self, steps: int) -> None:
        self._iteration = steps
        if self._step is not None:
            self._step.close()
        is_due = (steps + 1) % self.every == 0
        self._step = self._measurement() if is_due else None

    @property
    def is_pending(self) -> bool:
        """Whether a recorded pass waits for its GT, that is, whether `measure` would use them."""
        return bool(self._pending)

    def step(self, targets: Any = None) -> dict[str, float]:
        """Finish an optimizer step; return its values if it was measured, otherwise nothing.

        Call it in all processes.

        Args:
            targets: GT of the last forward pass: for each image a dictionary of `labels` (G,) and
                `masks` (G, H, W), over the padded image or over the image. Leave it out if the
                model receives the GT with its inputs.

        Raises:
            DataError: the GT can't be read.
            RecordingError: no process recorded a forward pass in a step to be measured.
        """
        self._measure(self._pending.pop(True, None), targets)
        measurement = self._step
        self._replace_unreadable_losses(measurement)
        self.iteration += 1
        if measurement is None:
            return {}
        total = measurement.total(self._device)
        if total is None:
            raise RecordingError(
                f"step {self.iteration}: no forward pass of the {self.family} was recorded; it did "
                "not run in training mode, or it was compiled by torch.compile"
            )
        values, matches = total.values(), total.statistics.matches
        if self._matches is None or len(self._matches) != len(matches):
            self._matches = torch.zeros_like(matches)
        self._matches = self._matches + matches
        if self._matches.any():
            values["dead_queries"] = float((self._matches == 0).sum())
        return values

    def measure(self, targets: Any = None) -> None:
        """Measure the last forward pass that is due and not measured yet.

        `step` calls it. With gradient accumulation, and in an evaluation, call it after every
        forward pass if the model does not receive the GT; `targets` are those of `step`.

        Raises:
            DataError: the GT can't be read.
        """
        if self._pending:
            self._measure(self._pending.popitem()[1], targets)

    def _measure(self, pending: _Pass | None, targets: Any = None) -> None:
        if pending is None:
            return
        class_logits, mask_logits = pending.class_logits, pending.mask_logits
        _, images, _, height, width = mask_logits.shape
        num_classes = class_logits.shape[-1] - 1
        shape = PredictionShape(images, num_classes, (height, width), self._stride)
        batch = read_batch(pending.inputs, targets, shape)
        training = pending.training
        measurement = self._step if training else self._evaluation
        if measurement is None:
            return
        for image in measurement.add(class_logits, mask_logits, batch):
            if not training and self._keep_rows:
                self._new_rows.add(image, batch, class_logits)

    def start_evaluation(self, images: int = 100, *, keep_rows: bool = True) -> None:
        """Measure the next forward passes in evaluation mode.

        Args:
            images: number of images to measure. Batches are measured as a whole, so it may be
                exceeded.
            keep_rows: whether `write_run` can write the images. Their rows, masks and thumbnails
                take time and memory.
        """
        self._pending.pop(False, None)  # a pass before this evaluation, which nobody measured
        if self._evaluation:
            self._evaluation.close()
        self._evaluation = self._measurement()
        self._new_rows = EvaluationRows()
        self._evaluation_limit, self._keep_rows = images, keep_rows

    def finish_evaluation(self) -> dict[str, float]:
        """Return the values of the evaluation, those of `step` without `dead_queries`.

        Call it in all processes, also in those that have evaluated no image.
        """
        self._measure(self._pending.pop(False, None))
        evaluation, self._evaluation = self._evaluation, None
        if evaluation is None:
            return {}
        evaluation.close()
        self._replace_unreadable_losses(evaluation)
        total = evaluation.total(self._device)
        if total is None:
            return {}
        self._evaluation_rows, self._evaluation_step = self._new_rows, self.iteration
        return total.values()

    def write_run(
        self, path: str | Path, classes: Sequence[str] | None = None, dataset: str = "held-out"
    ) -> dict[str, Any]:
        """Write the images of the last evaluation as a run directory and return its summary.

        `mpdiag report` and the dashboard open it. Call it in all processes; the main process
        writes. The run has no AP, PQ or mIoU, and its images have the size of the model's input.

        Args:
            path: the new directory.
            classes: names of the classes, "class K" if None.
            dataset: name of the data set in reports.

        Raises:
            RunError: no image with GT was measured, its rows were not kept, or `path` contains
                other files.
            OutputError: `path` cannot be written.
            ConfigError: `classes` are not those of the model.
        """
        costs, points = self._matcher.costs, self._matcher.points
        model = self._recorder.module
        header = {
            "checkpoint": {"path": type(model).__name__, "sha256": None},
            "architecture": {"family": self.family, "module": type(model).__name__},
            "method": None,
            "dataset": {
                "name": dataset,
                "annotation_file": None,
                "image_root": None,
                "split": None,
            },
            "task": "instance",
            "part": "matching",
            "settings": {
                "class_cost": costs.class_,
                "mask_cost": costs.mask,
                "dice_cost": costs.dice,
                "match_points": "all" if points is None else len(points),
                "step": self._evaluation_step,
            },
            "device": str(self._device),
        }
        return self._evaluation_rows.write(Path(path), header, classes, self._device)

    def finish_training(self) -> None:
        """Measure no other step until `iteration` is set; evaluations are measured."""
        self._pending.pop(True, None)
        if self._step:
            self._step.close()
        self._step = None

    def close(self) -> None:
        """Remove all hooks; nothing is measured any more. `write_run` still works."""
        self._is_closed = True
        self._before_handle.remove()
        self._stop_recording()
        self.finish_training()
        self._pending.clear()
        if self._evaluation:
            self._evaluation.close()
        self._evaluation = None
        if self._finite_check:
            self._finite_check.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _device(self) -> torch.device:
        """Device of the model, also of one that has not run."""
        parameter = next(self._recorder.module.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def _measurement(self) -> Measurement | None:
        if self._is_closed:
            return None
        layers = self._recorder.num_layers
        return Measurement(self._matcher, self._criterion, layers)

    def _replace_unreadable_losses(self, measurement: Measurement | None) -> None:
        """Compute the losses from the next measurement on if those of the criterion are unknown."""
        if self._criterion and measurement and not measurement.has_readable_losses:
            _LOG.warning(
                "%s returns no dictionary of losses called loss_*; the losses of Mask2Former are "
                "logged instead from the next measurement on",
                type(self._criterion).__name__,
            )
            self._criterion = None

    def _due(self, training: bool) -> Measurement | None:
        """Return the measurement of the pass that begins; None if it is not measured."""
        if training or self._evaluation is None:
            return self._step if training else None
        statistics = self._evaluation.statistics
        images = 0 if statistics is None else statistics.images
        return self._evaluation if images < self._evaluation_limit else None

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        if kwargs is None:  # torch still calls a hook that an earlier one has removed, without them
            return
        if torch._C._current_graph_task_id() != -1:
            return  # in a backward pass: gradient checkpointing runs the model again
        self._stop_recording()
        self._measure(self._pending.pop(module.training, None))  # whose GT nobody gave
        for part in (self._step, self._evaluation):
            if part:
                part.end_pass()
        measurement = self._due(module.training)
        if measurement is None:
            return
        require_uncompiled(module)
        measurement.begin_pass()
        self._inputs = self._signature.bind_partial(module, *args, **kwargs).arguments
        self._checked = {}
        self._recorder.attach()
        # After the hooks of the layers, which may be on the same module.
        self._after_handle = module.register_forward_hook(UncopiedHook(self._after))
        self._recorder.begin()

    def _after(self, module: nn.Module, *_: Any) -> None:
        self._recorder.end()
        recording, inputs = self._recorder.recording, self._inputs
        self._stop_recording()
        self._require_equal_layers(recording)
        self._pending[module.training] = _Pass(
            recording.class_logits, recording.mask_logits, inputs, module.training
        )
        recording.replace({})
        if find_targets(inputs) is not None:
            self.measure()

    @staticmethod
    def _require_equal_layers(recording: Recording) -> None:
        classes, masks = (recording.layers(name) for name in ("class_logits", "mask_logits"))
        if len(classes) != len(masks):
            raise RecordingError(
                f"class_logits: {len(classes)} layers, but mask_logits have {len(masks)}; the "
                "monitor needs both of the same layers"
            )
        for name, layers in (("class_logits", classes), ("mask_logits", masks)):
            shapes = dict.fromkeys(tuple(layer.shape) for layer in layers)
            if len(shapes) > 1:
                raise RecordingError(
                    f"{name}: layers of different shapes ({', '.join(map(str, shapes))}); the "
                    "monitor needs masks of one size and the same queries in all layers"
                )

    def _stop_recording(self) -> None:
        self._recorder.remove()
        self._inputs = {}
        if self._after_handle:
            self._after_handle.remove()
            self._after_handle = None

    def _check(self, name: str, tensor: Tensor) -> Tensor:
        layer = self._checked.get(name, 0)
        self._checked[name] = layer + 1
        if self._check_finite and self._recorder.module.training:
            check_finite(tensor, layer)
        return tensor


def require_new_run(path: Path) -> None:
    """Check a run directory before the training, rather than lose the run after it.

    Raises:
        RunError: there is a file, or a directory that is not empty.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise RunError(
            f"{path}: exists, but a new run is to be written there after the training; give "
            "another directory, or delete this one"
        )


def write_final_run(
    monitor: LayerMonitor, path: Path, classes: Sequence[str] | None = None
) -> None:
    """Write the run directory of a finished training; log an error, so that the model is saved."""
    try:
        monitor.write_run(path, classes)
    except MpdiagError as error:
        _LOG.error("no run directory was written: %s", error)
