"""mIoU-L and Util on the way: how a decoder's consistency grows while it is trained."""

import torch
from torch import Tensor

from mpdiag.data import Sample, SegmentationDataset, padded_targets
from mpdiag.matching import MatchingCosts, match
from mpdiag.metrics import adjacent_overlap, utilization, valid_cells
from mpdiag.models.mask2former import PIXELS_AT_ONCE, alike
from mpdiag.ops import seeded_points
from trainers.ranks import Ranks
from trainers.trainer import Trainer
from trainers.validation import at_inference


class Diagnosis:
    """Measures the matching part on the first so many held-out images, the same each time.

    Conventions are those of `mpdiag analyze` (docs/metrics.md): pairs of empty masks left out, Util
    averaged over the images that have GT.
    """

    def __init__(self, data: SegmentationDataset, trainer: Trainer) -> None:
        """Reads this process's share of the images, and keeps it."""
        config, self.ranks = trainer.config, trainer.ranks
        count = min(config.diagnose_images, len(data))
        indices = range(self.ranks.rank, count, self.ranks.world)
        self._samples = [at_inference(data[index], config.data) for index in indices]
        loss = config.loss
        self._costs = MatchingCosts(loss.class_weight, loss.mask_weight, loss.dice_weight)
        self._points: Tensor | None = None
        if loss.points != "all":
            self._points = seeded_points(loss.points, 0).to(self.ranks.device)

    @torch.inference_mode()
    def measure(self, trainer: Trainer) -> dict[str, float]:
        """`miou_l/1`..`miou_l/L` and `util/0`..`util/L`, fractions; none without a value."""
        model = trainer.model.eval()
        layers = trainer.config.model.decoder_layers + 1
        sums = torch.zeros(4, layers, dtype=torch.float64)
        for size, batch in alike(self._samples, PIXELS_AT_ONCE[self.ranks.device.type]):
            with trainer.autocast():
                found = model([sample.image.to(self.ranks.device) for sample in batch]).matching
            targets = padded_targets(batch, size, self.ranks.device)
            assignment = match(
                found.class_logits,
                found.mask_logits,
                targets,
                costs=self._costs,
                points=self._points,
            )
            for place, sample in enumerate(batch):
                sums += _sums(sample, found.mask_logits[:, place], assignment[:, place])
        model.train()
        iou, pairs, util, images = _total(self.ranks, sums)
        named = {f"miou_l/{i}": iou[i] / pairs[i] for i in range(1, layers) if pairs[i]}
        return named | {f"util/{i}": util[i] / images[i] for i in range(layers) if images[i]}


def _sums(sample: Sample, mask_logits: Tensor, assignment: Tensor) -> Tensor:
    """(4, L + 1): IoU with the layer before, pairs that have one, Util, whether there is GT."""
    rows, columns = valid_cells(sample.image.shape[-2], sample.image.shape[-1])
    intersection, area = adjacent_overlap((mask_logits > 0)[..., :rows, :columns])
    union = area[:-1] + area[1:] - intersection
    iou = torch.where(union > 0, intersection.double() / union, 0.0).sum(-1).cpu()
    sums = torch.zeros(4, len(area), dtype=torch.float64)
    sums[0, 1:], sums[1, 1:] = iou, (union > 0).sum(-1).cpu()
    if len(sample.labels):
        sums[2], sums[3] = utilization(assignment, min(len(sample.labels), area.shape[1])), 1
    return sums


def _total(ranks: Ranks, sums: Tensor) -> list[list[float]]:
    total: list[list[float]] = torch.stack(ranks.gather(sums)).sum(0).tolist()
    return total
