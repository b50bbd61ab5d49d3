"""A training in progress: model, method, optimizer and how far they have come."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpdiag.checkpoints import read_weights, save_checkpoint
from mpdiag.config import TrainConfig
from mpdiag.data import ClassInfo, Sample
from mpdiag.errors import CheckpointError, NonFiniteError
from mpdiag.models import Mask2Former
from trainers.methods import Batch, Losses, Method, Randomness, build_method
from trainers.methods.batch import autocast
from trainers.optimizer import build_optimizer, rate_factor
from trainers.output import LAST
from trainers.ranks import Ranks
from trainers.warm_start import load_initial

# Losses with a layer in their name; the last layer's have none.
_LAYERED = re.compile(r"(loss_(?:ce|mask|dice|consistency)(?:_dn)?)(?:_(\d+))?")

AUTOCAST = {"float32": None, "bf16": torch.bfloat16}


class Trainer:
    """Takes steps and keeps its state; knows nothing of files but its checkpoints.

    Attributes:
        config: the settings, with what the data set decides about the model.
        done: steps taken.
        evaluated: steps that had been taken at the last evaluation.
        best: the best score of an evaluation so far, None before the first.
    """

    def __init__(self, config: TrainConfig, classes: Sequence[ClassInfo], ranks: Ranks) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.classes = classes
        self.ranks = ranks
        self.model = Mask2Former(config.model)
        if config.init is not None:
            load_initial(self.model, config.init, classes, reset_classes=config.reset_classes)
        if ranks.world > 1 and ranks.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.method: Method = build_method(self.model, config).to(ranks.device)
        if config.compile:
            for module in (
                self.model.backbone,
                self.model.pixel_decoder,
                *self.model.decoder.layers,
            ):
                module.compile()
        self.shared = ranks.wrap(self.method)
        self.optimizer = build_optimizer(self.method, config.optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate_factor(step, config.schedule)
        )
        self.done = 0
        self.evaluated = 0
        self.best: float | None = None

    @property
    def last(self) -> bool:
        """Whether no step is left."""
        return self.done == self.config.schedule.iterations

    def is_best(self, score: float | None) -> bool:
        """Whether no evaluation has given a higher score so far; it is then the best."""
        if score is None or (self.best is not None and score <= self.best):
            return False
        self.best = score
        return True

    def autocast(self) -> torch.autocast:
        """The precision that the model runs in."""
        return autocast(self.ranks.device, AUTOCAST[self.config.precision])

    def step(self, samples: Sequence[Sample], slots: Sequence[int]) -> tuple[Losses, Tensor]:
        """One optimizer step on this process's share of a batch.

        Args:
            samples: the share.
            slots: place of each in the whole batch.

        Returns:
            This process's share of the weighted losses, and the gradient norm before clipping.

        Raises:
            NonFiniteError: a loss, a matching cost or the gradient is not finite; the weights are
                as they were before the step.
        """
        self.method.train()
        losses = self._backward(samples, slots)
        norm = nn.utils.clip_grad_norm_(self.method.parameters(), self.config.optimizer.clip_norm)
        if not norm.isfinite():
            raise NonFiniteError("the gradient's norm", None, None)
        self.optimizer.step()
        self.schedule.step()
        self.done += 1
        return losses, norm

    def _backward(self, samples: Sequence[Sample], slots: Sequence[int]) -> Losses:
        """Losses and gradients of the step at hand, in `accumulate` parts."""
        config = self.config
        size = -(-len(samples) // config.accumulate)
        starts = range(0, len(samples), size)
        # A part is padded to its own largest image.
        parts = [
            Batch.of(samples[start : start + size], self._randomness(slots[start : start + size]))
            for start in starts
        ]
        census = self.ranks.mean_census([self.method.census(part.targets) for part in parts])
        # Dropped paths of a Swin draw from the global generator.
        torch.manual_seed(parts[0].randomness.shared_seed + slots[0])
        self.optimizer.zero_grad(set_to_none=True)
        losses: Losses = {}
        for start, part in zip(starts, parts, strict=True):
            with self.shared.hold_gradients(part is not parts[-1]):
                try:
                    found = self.shared(part, census, AUTOCAST[config.precision])
                except NonFiniteError as error:
                    image = None if error.image is None else start + error.image
                    raise NonFiniteError(error.term, error.layer, image) from None
                total = torch.stack(list(found.values())).sum()
                if not total.isfinite():
                    raise not_finite(found, config.model.decoder_layers)
                total.backward()
            losses = {name: x.detach() + losses.get(name, 0) for name, x in found.items()}
        return losses

    def _randomness(self, slots: Sequence[int]) -> Randomness:
        return Randomness.of_step(self.config.seed, self.done, slots, self.ranks.device)

    def save(self, path: Path) -> Path:
        """Write a checkpoint; `last.pth` has what a resumed run needs besides the model."""
        extra: dict[str, Any] = {}
        if path.name == LAST:
            extra = {
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "evaluated": self.evaluated,
                "best": self.best,
            }
        return self.write(path, **extra)

    def write(self, path: Path, **extra: Any) -> Path:
        """Write the model with the recipe, the method's own parameters and `extra`."""
        heads = {
            key: value
            for key, value in self.method.state_dict().items()
            if not key.startswith("model.")
        }
        save_checkpoint(
            path,
            self.model,
            no_object_weight=self.config.loss.no_object_weight,
            iteration=self.done,
            method=heads,
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
        """Take up model, optimizer, schedule and step from a `last.pth`.

        Raises:
            CheckpointError: it belongs to another recipe, or is damaged.
        """
        found = read_weights(path)
        try:
            self.model.load_state_dict(found.weights)
            self.method.load_state_dict(found.extra["method"], strict=False)
            self.optimizer.load_state_dict(found.extra["optimizer"])
            self.schedule.load_state_dict(found.extra["schedule"])
            self.done = int(found.extra["iteration"])
            self.evaluated = int(found.extra["evaluated"])
            self.best = found.extra["best"]
        except (KeyError, RuntimeError, ValueError, TypeError):
            raise CheckpointError(
                f"{found.path}: does not fit this run's recipe; remove it to start over"
            ) from None


def not_finite(losses: Losses, last: int) -> NonFiniteError:
    """Names the losses that are not finite; of several layers, those of the first."""
    found: dict[int | None, list[str]] = {}
    for name, value in losses.items():
        if not value.isfinite():
            parsed = _LAYERED.fullmatch(name)
            layer = None if parsed is None else int(parsed[2] or last)
            found.setdefault(layer, []).append(name if parsed is None else parsed[1])
    first = min(found, key=lambda layer: -1 if layer is None else layer)
    return NonFiniteError(", ".join(sorted(found[first])), first, None)
