"""Measure recorded forward passes and average over those of a step or of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from mpdiag.integrations.batch import Batch
from mpdiag.integrations.layer_losses import LayerLosses
from mpdiag.integrations.layer_statistics import LayerStatistics
from mpdiag.integrations.processes import gather
from mpdiag.losses import set_losses
from mpdiag.matching import Matcher, Matches, Target, finite_queries
from mpdiag.metrics import ImageRows, image_rows


@dataclass(frozen=True, slots=True)
class MonitoredImage:
    """One image of a pass, without padding.

    Attributes:
        index: position in the batch.
        rows: values per layer and query.
        matches: matching of each layer; no query is matched if the GT is unknown.
        target: GT over the padded area; None if it is unknown.
    """

    index: int
    rows: ImageRows
    matches: Matches
    target: Target | None


@dataclass(frozen=True, slots=True)
class Total:
    """What all processes have measured.

    Attributes:
        statistics: sums over the images of all processes.
        losses: `NAME/LAYER` -> mean over the processes that have this loss.
    """

    statistics: LayerStatistics
    losses: Mapping[str, float]

    def values(self) -> dict[str, float]:
        """Return `NAME/LAYER` -> mean."""
        return {**self.statistics.values(), **self.losses}


class Measurement:
    """Layer metrics and losses of the passes of one step, or of one evaluation."""

    def __init__(
        self,
        matcher: Matcher,
        criterion: nn.Module | None,
        num_layers: int | None,
    ) -> None:
        """Start; losses are those of `criterion`, or computed if it is None."""
        self._match = matcher
        self._losses: LayerLosses | None = None
        if criterion is not None and num_layers is not None:
            self._losses = LayerLosses(criterion, num_layers)
        self._computed: dict[str, Tensor] = {}
        self._computed_passes = 0
        self.statistics: LayerStatistics | None = None

    def close(self) -> None:
        """Stop to read losses."""
        if self._losses:
            self._losses.remove()

    def begin_pass(self) -> None:
        """Read losses for the forward pass that begins, until `end_pass`."""
        if self._losses:
            self._losses.begin_pass()

    def end_pass(self) -> None:
        """Read no further losses of the last forward pass."""
        if self._losses:
            self._losses.end_pass()

    @property
    def has_readable_losses(self) -> bool:
        """Whether the criterion has always returned losses by name."""
        return self._losses is None or self._losses.is_readable

    @torch.no_grad()
    def add(self, class_logits: Tensor, mask_logits: Tensor, batch: Batch) -> list[MonitoredImage]:
        """Add a pass, (L + 1, B, N, ...) each, and return its images."""
        layers, count, queries = class_logits.shape[:3]
        if self.statistics is None:
            self.statistics = LayerStatistics(layers, queries)
        images = []
        with torch.autocast(mask_logits.device.type, enabled=False):
            targets = _targets_on(mask_logits.device, batch, count)
            finite = finite_queries(class_logits, mask_logits)
            matches, finite = self._match(class_logits, mask_logits, targets, finite), finite.cpu()
            if self._losses is None and batch.targets is not None:
                self._add_losses(class_logits, mask_logits, targets, matches.assignment)
            for index in range(count):
                own = matches.image(index)
                rows = image_rows(
                    class_logits[:, index],
                    mask_logits[:, index],
                    targets[index],
                    own.assignment,
                    batch.valid_cells(index, (mask_logits.shape[-2], mask_logits.shape[-1])),
                    finite=finite[:, index],
                )
                target = None if batch.targets is None else targets[index]
                labels = None if target is None else target["labels"].cpu()
                self.statistics.add(rows, labels)
                images.append(MonitoredImage(index, rows, own, target))
        return images

    def total(self, device: torch.device) -> Total | None:
        """Return what all processes have measured; None if none of them measured an image.

        Call it in all processes, also in those without an image. `device` is that of the model.
        """
        parts = gather((self.statistics, self._mean_losses()), device)
        statistics = [found for found, _ in parts if found is not None]
        if not statistics:
            return None
        losses: dict[str, list[float]] = {}
        for _, found in parts:
            for name, value in found.items():
                losses.setdefault(name, []).append(value)
        means = {name: fmean(values) for name, values in losses.items()}
        return Total(LayerStatistics.total(statistics), means)

    def _mean_losses(self) -> dict[str, float]:
        """Return `NAME/LAYER` -> mean over the passes of this process."""
        if self._losses is not None:
            return self._losses.values()
        return {
            f"{name}/{layer}": value
            for name, total in self._computed.items()
            for layer, value in enumerate((total / self._computed_passes).tolist())
        }

    def _add_losses(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        targets: list[Target],
        assignment: Tensor,
    ) -> None:
        """Add the losses of Mask2Former on the cells of the mask grid."""
        self._computed_passes += 1
        count = sum(len(target["labels"]) for target in targets)
        found = set_losses(
            class_logits, mask_logits, targets, assignment, None, num_masks=max(count, 1)
        )
        losses = {"loss_class": found.class_, "loss_mask": found.mask, "loss_dice": found.dice}
        for name, loss in losses.items():
            self._computed[name] = loss + self._computed.get(name, 0.0)


def _targets_on(device: torch.device, batch: Batch, count: int) -> list[Target]:
    """Return the GT of the images on a device; no GT if it is unknown."""
    empty = Target(
        labels=torch.zeros(0, dtype=torch.int64),
        masks=torch.zeros(0, *batch.padded, dtype=torch.bool),
    )
    return [
        Target(labels=one["labels"].to(device), masks=one["masks"].to(device))
        for one in batch.targets or [empty] * count
    ]
