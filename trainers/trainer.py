"""Trainer: model, method, optimizer and schedule, with optimizer steps and checkpoints."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mpdiag.checkpoints import Weights, read_weights, save_checkpoint
from mpdiag.checkpoints.loading import build_model
from mpdiag.config import TrainConfig
from mpdiag.data import ClassInfo, Sample
from mpdiag.errors import CheckpointError, NonFiniteError, TrainingError
from mpdiag.legacy_names import upgrade_method_state
from mpdiag.models import Mask2Former
from mpdiag.ops import set_tf32
from trainers.distributed import DistributedContext, mean_normalizers
from trainers.initialization import initialize_model
from trainers.methods import Batch, CombinedMethod, Losses, Randomness, build_method
from trainers.methods.batch import autocast
from trainers.optimizer import build_optimizer, lr_factor
from trainers.output import LAST

AUTOCAST = {"float32": None, "bf16": torch.bfloat16}


class Trainer:
    """Takes optimizer steps and holds the state of a training. Its only files are checkpoints.

    Attributes:
        config: the configuration, with the values that follow from the data set.
        iteration: number of steps taken.
        last_evaluation: iteration of the last evaluation.
        best: best score of an evaluation so far, None before the first.
    """

    def __init__(
        self,
        config: TrainConfig,
        classes: Sequence[ClassInfo],
        distributed: DistributedContext,
        *,
        initialize: bool = True,
    ) -> None:
        """Build model, method and optimizer.

        Args:
            config: the configuration, with the values that follow from the data set.
            classes: of the data set.
            distributed: this process and the others.
            initialize: load the initial weights; False if a checkpoint follows, so that their files
                are not needed.
        """
        torch.manual_seed(config.seed)
        set_tf32(config.tf32)
        self.config = config
        self.classes = classes
        self.distributed = distributed
        self.model = Mask2Former(config.model) if initialize else build_model(config.model)
        if initialize and config.init is not None:
            initialize_model(self.model, config.init, classes, reset_classes=config.reset_classes)
        if distributed.world_size > 1 and distributed.device.type == "cuda":
            convert_sync_batchnorm(self.model)  # torch's drops the activation of timm's layers
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.method: CombinedMethod = build_method(self.model, config).to(distributed.device)
        if config.compile:
            for module in (
                self.model.backbone,
                self.model.pixel_decoder,
                *self.model.decoder.layers,
            ):
                module.compile()
        self.replica: nn.Module = self.method  # with gradients averaged over the processes
        if distributed.world_size > 1:
            devices = [distributed.device.index] if distributed.device.type == "cuda" else None
            self.replica = DistributedDataParallel(
                self.method, device_ids=devices, gradient_as_bucket_view=True
            )
        self.optimizer = build_optimizer(self.method, config.optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: lr_factor(step, config.schedule)
        )
        self.iteration = 0
        self.last_evaluation = 0
        self.best: float | None = None

    @property
    def finished(self) -> bool:
        """Whether all steps are taken."""
        return self.iteration == self.config.schedule.iterations

    def update_best(self, score: float | None) -> bool:
        """Store `score` if it is higher than all before, and return whether it is."""
        if score is None or (self.best is not None and score <= self.best):
            return False
        self.best = score
        return True

    def autocast(self) -> torch.autocast:
        """Return the precision of the model."""
        return autocast(self.distributed.device, AUTOCAST[self.config.precision])

    def step(self, samples: Sequence[Sample], positions: Sequence[int]) -> tuple[Losses, Tensor]:
        """Take one optimizer step on this process's share of a batch.

        Args:
            samples: the share.
            positions: position of each in the whole batch.

        Returns:
            This process's share of the weighted losses, and the gradient norm before clipping.

        Raises:
            NonFiniteError: a loss, a matching cost or the gradient is not finite; the weights are
                unchanged.
        """
        self.method.train()
        losses = self._backward(samples, positions)
        norm = nn.utils.clip_grad_norm_(self.method.parameters(), self.config.optimizer.clip_norm)
        if not norm.isfinite():
            raise NonFiniteError("the gradient norm", None, None)
        self.optimizer.step()
        self.schedule.step()
        self.iteration += 1
        return losses, norm

    def _backward(self, samples: Sequence[Sample], positions: Sequence[int]) -> Losses:
        """Compute losses and gradients of a step, in `gradient_accumulation_steps` parts."""
        config = self.config
        size = -(-len(samples) // config.gradient_accumulation_steps)
        starts = range(0, len(samples), size)
        # Each part is padded to its own largest image.
        parts = [
            Batch.from_samples(
                samples[start : start + size],
                self._randomness(positions[start : start + size]),
                AUTOCAST[config.precision],
            )
            for start in starts
        ]
        normalizers = mean_normalizers(
            [self.method.normalizers(part.targets) for part in parts], self.distributed.world_size
        )
        # Drop path of a Swin uses the global generator.
        torch.manual_seed(parts[0].randomness.shared_seed + positions[0])
        self.optimizer.zero_grad(set_to_none=True)
        losses: Losses = {}
        for start, part in zip(starts, parts, strict=True):
            last, replica = part is parts[-1], self.replica
            # Processes average the gradients of all parts at once.
            with (
                replica.no_sync()
                if isinstance(replica, DistributedDataParallel) and not last
                else nullcontext()
            ):
                try:
                    found: Losses = replica(part, normalizers)
                except NonFiniteError as error:
                    image = None if error.image is None else start + error.image
                    raise NonFiniteError(error.term, error.layer, image) from None
                total = torch.stack(list(found.values())).sum()
                if not total.isfinite():
                    raise non_finite_error(found, self.method)
                total.backward()
            losses = {name: x.detach() + losses.get(name, 0) for name, x in found.items()}
        return losses

    def _randomness(self, positions: Sequence[int]) -> Randomness:
        return Randomness.for_step(
            self.config.seed, self.iteration, positions, self.distributed.device
        )

    def save(self, path: Path) -> Path:
        """Write a checkpoint; `last.pth` also has what a resumed run needs."""
        extra: dict[str, Any] = {}
        if path.name == LAST:
            extra = {
                "optimizer": self.optimizer.state_dict(),
                "evaluated": self.last_evaluation,
                "best": self.best,
            }
        return self.write(path, **extra)

    def write(self, path: Path, **extra: Any) -> Path:
        """Write the model with the recipe, the method's own parameters and `extra`."""
        own = {
            key: value
            for key, value in self.method.state_dict().items()
            if not key.startswith("model.")
        }
        save_checkpoint(
            path,
            self.model,
            no_object_weight=self.config.loss.no_object_weight,
            iteration=self.iteration,
            method=own,
            mpdiag={
                "recipe": self.config.model_dump(mode="json"),
                "classes": [
                    {"category_id": c.category_id, "name": c.name, "isthing": c.isthing}
                    for c in self.classes
                ],
            },
            **extra,
        )
        return path

    def restore(self, path: Path) -> None:
        """Restore model, optimizer and iteration from a `last.pth`.

        Raises:
            CheckpointError: it belongs to another recipe, or is damaged.
            TrainingError: the memory of the device does not suffice.
        """
        found = read_weights(path)
        self.restore_weights(found)
        with _restoring(found.path):
            self.optimizer.load_state_dict(found.extra["optimizer"])
            self.schedule.last_epoch = self.iteration  # the learning rate follows from it
            self.last_evaluation = int(found.extra["evaluated"])
            best = found.extra["best"]
            self.best = None if best is None else float(best)

    def restore_weights(self, found: Weights) -> None:
        """Restore the model, the method's own parameters and the iteration.

        Raises:
            CheckpointError, TrainingError: as for `restore`.
        """
        with _restoring(found.path):
            self.model.load_state_dict(found.weights)
            own = upgrade_method_state(found.extra["method"])
            self.method.load_state_dict(own, strict=False)
            self.iteration = int(found.extra["iteration"])
            if not 0 <= self.iteration <= self.config.schedule.iterations:
                raise ValueError(f"iteration {self.iteration} is not one of the recipe")


@contextmanager
def _restoring(path: Path) -> Iterator[None]:
    """Turn the errors of entries that do not fit into errors that name the file."""
    try:
        yield
    except torch.OutOfMemoryError as error:  # a RuntimeError, and no fault of the file
        raise TrainingError(
            f"{path}: out of memory while restoring ({error}); the checkpoint is intact, "
            "free memory of the device and resume again"
        ) from error
    except (AttributeError, KeyError, OverflowError, RuntimeError, ValueError, TypeError):
        raise CheckpointError(
            f"{path}: does not match this run's recipe; resume with the recipe that "
            "wrote it, or start over in another --output"
        ) from None


def non_finite_error(losses: Losses, method: CombinedMethod) -> NonFiniteError:
    """Return an error that names the losses that are not finite, of the first such layer."""
    terms: dict[int | None, list[str]] = {}
    for name, value in losses.items():
        if not value.isfinite():
            term, layer = method.layer_of(name)
            terms.setdefault(layer, []).append(term)
    first = min(terms, key=lambda layer: -1 if layer is None else layer)
    return NonFiniteError(", ".join(sorted(terms[first])), first, None)
