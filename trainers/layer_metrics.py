"""mIoU-L and Util of held-out images during training."""

import torch
from torch import Tensor

from mpdiag.data import Sample, SegmentationDataset, padded_targets
from mpdiag.losses import matching_costs
from mpdiag.matching import Matcher, match
from mpdiag.metrics import adjacent_iou, adjacent_overlap, utilization, valid_cells
from mpdiag.models.batching import batches_by_size
from mpdiag.models.mask2former import padded_size
from trainers.distributed import DistributedContext
from trainers.trainer import Trainer
from trainers.validation import resize_for_inference


class LayerMetricsMonitor:
    """Measures the layer metrics of the matching part on the first held-out images.

    The conventions are those of `mpdiag analyze` (docs/metrics.md): pairs of empty masks are left
    out, and Util is averaged over the images with GT.
    """

    def __init__(self, data: SegmentationDataset, trainer: Trainer) -> None:
        """Load this process's share of the images."""
        config, self.distributed = trainer.config, trainer.distributed
        count = min(config.layer_metrics_images, len(data))
        indices = range(self.distributed.rank, count, self.distributed.world_size)
        self._samples = [resize_for_inference(data[index], config.data) for index in indices]
        costs = matching_costs(config.loss)
        self._matcher = Matcher.on_fixed_points(costs, config.loss.num_points)

    @torch.inference_mode()
    def measure(self, trainer: Trainer) -> dict[str, float]:
        """Return `miou_l/1`..`miou_l/L` and `util/0`..`util/L` as fractions, if they exist."""
        model = trainer.model.eval()
        layers = trainer.config.model.decoder_layers + 1
        sums = torch.zeros(4, layers, dtype=torch.float64)
        device = self.distributed.device
        for size, batch in batches_by_size(
            self._samples, lambda sample: padded_size([sample.size]), device
        ):
            with trainer.autocast():
                found = model([sample.image.to(device) for sample in batch]).matching
            targets = padded_targets(batch, size, device)
            assignment = match(
                found.class_logits,
                found.mask_logits,
                targets,
                costs=self._matcher.costs,
                points=self._matcher.points,
            )
            for index, sample in enumerate(batch):
                sums += _sums(sample, found.mask_logits[:, index], assignment[:, index])
        model.train()
        iou, pairs, util, images = _total(self.distributed, sums)
        named = {f"miou_l/{i}": iou[i] / pairs[i] for i in range(1, layers) if pairs[i]}
        return named | {f"util/{i}": util[i] / images[i] for i in range(layers) if images[i]}


def _sums(sample: Sample, mask_logits: Tensor, assignment: Tensor) -> Tensor:
    """Return (4, L + 1) sums: IoU with the last layer, pairs with an IoU, Util, images with GT."""
    rows, columns = valid_cells(*sample.size)
    iou = adjacent_iou(*adjacent_overlap((mask_logits > 0)[..., :rows, :columns]))
    sums = torch.zeros(4, len(mask_logits), dtype=torch.float64)
    sums[0, 1:], sums[1, 1:] = iou.nansum(-1), (~iou.isnan()).sum(-1)
    if len(sample.labels):
        sums[2], sums[3] = utilization(assignment, min(len(sample.labels), mask_logits.shape[1])), 1
    return sums


def _total(distributed: DistributedContext, sums: Tensor) -> list[list[float]]:
    total: list[list[float]] = torch.stack(distributed.all_gather(sums)).sum(0).tolist()
    return total
