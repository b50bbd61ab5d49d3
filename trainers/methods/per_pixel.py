"""Pre-training of backbone and pixel decoder, for use without ImageNet weights."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.config import TrainConfig
from mpdiag.matching import Target
from mpdiag.models import Mask2Former
from mpdiag.ops import cell_centers, sample_masks
from trainers.methods.batch import Losses
from trainers.methods.method import Method, TrainingStep


class PerPixel(Method):
    """Class and centre offset of every pixel, from the pixel decoder's output.

    A linear layer on the mask features and on each feature map predicts the class of each cell and
    the offset to the centre of its object, in fractions of the image. These layers are not part of
    the model. The query decoder is not trained.
    """

    name = "per-pixel"
    description = "pre-train backbone and pixel decoder without queries; stands alone"
    stands_alone = True
    trains_decoder = False

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        model = config.model
        self.num_classes = model.num_classes
        outputs = model.num_classes + 1 + 2
        self.heads = nn.ModuleList(
            nn.Conv2d(channels, outputs, 1)
            for channels in (*[model.hidden_dim] * 3, model.mask_dim)
        )

    def prepare(self, model: Mask2Former) -> None:
        model.decoder.requires_grad_(False)

    def losses(self, step: TrainingStep) -> Losses:
        """Return class and offset losses per stride: means over these images, times their share."""
        share = len(step.batch.images) / step.normalizers["images"]
        with step.batch.autocast():
            levels, mask_features = step.model.features(step.batch.images)
        losses: Losses = {}
        strides = ("32", "16", "8", "4")
        for head, features, stride in zip(
            self.heads, (*levels, mask_features), strides, strict=True
        ):
            prediction = head(features)
            labels, offsets = _labels_and_offsets(step.batch.targets, features, self.num_classes)
            classes, offset = prediction.split([self.num_classes + 1, 2], dim=1)
            losses[f"loss_class_{stride}"] = share * F.cross_entropy(classes, labels)
            inside = (labels < self.num_classes)[:, None]
            error = (offset - offsets).abs() * inside
            losses[f"loss_offset_{stride}"] = 5 * share * error.sum() / inside.sum().clamp(min=1)
        return losses


def _labels_and_offsets(
    targets: Sequence[Target], features: Tensor, background: int
) -> tuple[Tensor, Tensor]:
    """Return (B, h, w) classes of cells and (B, 2, h, w) offsets to their objects' centroids."""
    batch, _, height, width = features.shape
    centers = cell_centers(height, width, features.device)
    labels = torch.full((batch, height * width), background, device=features.device)
    offsets = torch.zeros(batch, 2, height * width, device=features.device)
    for image, target in enumerate(targets):
        masks = target["masks"]
        if not len(masks):
            continue
        fine = cell_centers(masks.shape[-2], masks.shape[-1], masks.device)
        weight = masks.flatten(1).to(fine.dtype)
        middle = (weight @ fine) / weight.sum(1, keepdim=True).clamp(min=1)
        read = sample_masks(masks, torch.arange(len(masks), device=masks.device), centers)
        covered, owner = read.max(0)
        inside = covered >= 0.5
        labels[image] = torch.where(inside, target["labels"][owner], background)
        offsets[image] = torch.where(inside[:, None], middle[owner] - centers, 0).T
    shape = (height, width)
    return labels.unflatten(1, shape), offsets.unflatten(2, shape)
