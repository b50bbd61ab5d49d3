"""The training loop, its state on disk, and how a stopped run goes on."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import Tensor

from mpdiag.checkpoints import read_weights, save_checkpoint
from mpdiag.config import DataConfig, TrainConfig
from mpdiag.data import (
    ClassInfo,
    Compose,
    HorizontalFlip,
    ResizeShortestEdge,
    Sample,
    TrainingBatches,
    drop_empty,
    load_dataset,
    padded_targets,
)
from mpdiag.errors import CheckpointError, RunError, TrainingError
from mpdiag.models import Mask2Former
from mpdiag.models.mask2former import padded_size
from trainers.journal import Journal
from trainers.methods import METHODS, Method, check_method, needs_label_embedding
from trainers.optimizer import build_optimizer, rate_factor
from trainers.warm_start import load_initial

LAST, FINAL, SETTINGS = "last.pth", "model_final.pth", "config.yaml"


def train(
    config: TrainConfig, output: Path, *, resume: bool = False, console: Console | None = None
) -> Path:
    """Train as `config` says and return the path of `model_final.pth`.

    Args:
        config: the recipe; the number of classes and the class embeddings of the MP part follow
            from data set and method.
        output: directory for checkpoints and logs; must be empty, or with `resume` hold this run.
        resume: go on from `last.pth`.
        console: where the progress bar goes.

    Raises:
        RunError: `output` holds something else.
        ConfigError, DataError: the recipe or its data set is wrong.
        TrainingError: a loss is not finite.
    """
    console = console or Console(stderr=True)
    check_method(config.method)
    dataset = load_dataset(
        config.data.dataset,
        root=config.data.root,
        split=config.data.train_split,
        task=config.data.task,
    )
    config = _fit_model(config, len(dataset.classes))
    _check_free(output, config, resume)
    trainer = Trainer(config, dataset.classes, output)
    _claim(output, config)
    if resume and (output / LAST).is_file():
        trainer.restore()
    batches = TrainingBatches(
        dataset,
        config.data.batch_size,
        config.seed,
        transform=_augmentation(config.data),
        workers=config.data.workers,
        start_step=trainer.done,
        filter_empty=True,
    )
    return trainer.run(batches, console)


class Trainer:
    """A method, its optimizer and how far it has come."""

    def __init__(self, config: TrainConfig, classes: Sequence[ClassInfo], output: Path) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.classes = classes
        self.output = output
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = Mask2Former(config.model)
        if config.init is not None:
            load_initial(self.model, config.init)
        self.method: Method = METHODS[config.method](self.model, config).to(self.device)
        self.optimizer = build_optimizer(self.method, config.optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate_factor(step, config.schedule)
        )
        self.done = 0

    def run(self, batches: TrainingBatches, console: Console) -> Path:
        """Train from the current step to the end."""
        total = self.config.schedule.iterations
        self.method.train()
        with Journal(self.output, total, self.done, console) as journal:
            stream = iter(batches)
            waiting = 0.0
            while self.done < total:
                since = time.perf_counter()
                samples = next(stream)
                waiting += time.perf_counter() - since
                losses, norm = self.step(samples)
                step = self.done
                self.done += 1
                journal.step(self.done)
                if self.done % self.config.log_every == 0 or self.done == total:
                    journal.log(step, self._values(losses, norm), waiting)
                    waiting = 0.0
                if self.done % self.config.checkpoint_every == 0 and self.done < total:
                    self.save(LAST)
        self.save(LAST)
        return self.save(FINAL)

    def step(self, samples: Sequence[Sample]) -> tuple[dict[str, Tensor], Tensor]:
        """One optimizer step; gives its losses and the gradient norm before clipping."""
        generator = torch.Generator(self.device).manual_seed(_step_seed(self.config, self.done))
        size = padded_size([(s.image.shape[-2], s.image.shape[-1]) for s in samples])
        images = [sample.image.to(self.device) for sample in samples]
        targets = padded_targets(samples, size, self.device)
        losses: dict[str, Tensor] = self.method(images, targets, generator)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            names = ", ".join(name for name, x in losses.items() if not torch.isfinite(x))
            ids = ", ".join(str(sample.image_id) for sample in samples)
            raise TrainingError(
                f"step {self.done}: {names} not finite on images {ids}; lower "
                "optimizer.learning_rate or look at these images"
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            self.method.parameters(), self.config.optimizer.clip_norm
        )
        self.optimizer.step()
        self.schedule.step()
        return losses, norm

    def save(self, name: str) -> Path:
        """Write a checkpoint; `last.pth` has what a resumed run needs besides the model."""
        path = self.output / name
        extra: dict[str, Any] = {}
        if name == LAST:
            heads = {
                key: value
                for key, value in self.method.state_dict().items()
                if not key.startswith("model.")
            }
            extra = {
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "method": heads,
            }
        save_checkpoint(
            path,
            self.model,
            no_object_weight=self.config.loss.no_object_weight,
            iteration=self.done,
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

    def restore(self) -> None:
        """Take up model, optimizer, schedule and step from `last.pth`."""
        found = read_weights(self.output / LAST)
        try:
            self.model.load_state_dict(found.weights)
            self.method.load_state_dict(found.extra["method"], strict=False)
            self.optimizer.load_state_dict(found.extra["optimizer"])
            self.schedule.load_state_dict(found.extra["schedule"])
            self.done = int(found.extra["iteration"])
        except (KeyError, RuntimeError, ValueError, TypeError):
            raise CheckpointError(
                f"{found.path}: does not fit this run's recipe; remove it to start over"
            ) from None

    def _values(self, losses: dict[str, Tensor], norm: Tensor) -> dict[str, float]:
        values = {name: value.item() for name, value in losses.items()}
        return {
            "total_loss": sum(values.values()),
            **values,
            "lr": self.optimizer.param_groups[-1]["lr"],
            "grad_norm": norm.item(),
        }


def _fit_model(config: TrainConfig, num_classes: int) -> TrainConfig:
    """The recipe with what data set and method decide about the model."""
    decided = {
        "num_classes": num_classes,
        "label_embedding": config.model.label_embedding or needs_label_embedding(config.method),
    }
    return config.model_copy(update={"model": config.model.model_copy(update=decided)})


def _check_free(output: Path, config: TrainConfig, resume: bool) -> None:
    """Refuse a directory that holds anything but this run, unfinished and to be resumed."""
    path = output / SETTINGS
    if output.is_file():
        raise RunError(f"{output} is a file; give a directory for the run")
    if not path.is_file():
        if output.is_dir() and any(output.iterdir()):
            raise RunError(f"{output} holds other files; give an empty directory")
        return
    if path.read_text(encoding="utf-8") != _settings(config):
        raise RunError(f"{output} holds a run of other settings; give another directory")
    if (output / FINAL).is_file():
        raise RunError(f"{output} holds this run, finished; give another directory")
    if not resume and (output / LAST).is_file():
        raise RunError(f"{output} holds this run unfinished; go on with --resume")


def _claim(output: Path, config: TrainConfig) -> None:
    output.mkdir(parents=True, exist_ok=True)
    temporary = output / (SETTINGS + ".tmp")
    temporary.write_text(_settings(config), encoding="utf-8")
    temporary.replace(output / SETTINGS)


def _settings(config: TrainConfig) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _augmentation(data: DataConfig) -> Compose:
    steps: list[Any] = []
    if data.short_side is not None:
        steps.append(ResizeShortestEdge(data.short_side, data.long_side))
    if data.flip:
        steps.append(HorizontalFlip())
    return Compose([*steps, drop_empty])


def _step_seed(config: TrainConfig, step: int) -> int:
    """A seed for each step, so that a resumed run draws what an unbroken one would."""
    return config.seed * 1_000_003 + step
