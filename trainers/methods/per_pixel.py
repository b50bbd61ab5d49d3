"""A warm start for backbone and pixel decoder where there are no ImageNet weights."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.matching import Target
from mpdiag.models import Mask2Former
from mpdiag.ops import cell_centers, sample_masks
from trainers.methods.batch import Batch, Census, Losses


class PerPixel(nn.Module):
    """Class and centre offset of every pixel.

    A linear head on the mask features and on each level predicts what a cell belongs to and how far
    away its object's centre is (in fractions of the image). The heads are thrown away afterwards;
    the query decoder is not trained.
    """

    def __init__(self, model: Mask2Former) -> None:
        super().__init__()
        self.model = model
        model.decoder.requires_grad_(False)
        settings = model.config
        outputs = settings.num_classes + 1 + 2
        self.heads = nn.ModuleList(
            nn.Conv2d(channels, outputs, 1)
            for channels in (*[settings.hidden_dim] * 3, settings.mask_dim)
        )

    def census(self, targets: Sequence[Target]) -> Census:
        """What these images add to the normalisers of their step."""
        return Census(len(targets), 0, 0)

    def forward(self, batch: Batch, census: Census, autocast: torch.dtype | None = None) -> Losses:
        """Class and offset losses of each stride, means over these images times their share.

        Args:
            batch: images of a step or of a part of it.
            census: of the whole step.
            autocast: the model runs in this precision.
        """
        model = self.model
        share = len(batch.images) / census.images
        with batch.autocast(autocast):
            levels, mask_features = model.pixel_decoder(model.backbone(model.batch(batch.images)))
        losses: Losses = {}
        strides = ("32", "16", "8", "4")
        for head, features, stride in zip(
            self.heads, (*levels, mask_features), strides, strict=True
        ):
            prediction = head(features)
            labels, offsets = _truth(batch.targets, features, model.config.num_classes)
            classes, offset = prediction.split([model.config.num_classes + 1, 2], dim=1)
            losses[f"loss_class_{stride}"] = share * F.cross_entropy(classes, labels)
            inside = (labels < model.config.num_classes)[:, None]
            error = (offset - offsets).abs() * inside
            losses[f"loss_offset_{stride}"] = 5 * share * error.sum() / inside.sum().clamp(min=1)
        return losses


def _truth(targets: Sequence[Target], features: Tensor, background: int) -> tuple[Tensor, Tensor]:
    """(B, h, w) class of each cell and (B, 2, h, w) offset to its object's centre of mass."""
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
        labels[image, inside] = target["labels"][owner[inside]]
        offsets[image][:, inside] = (middle[owner[inside]] - centers[inside]).T
    shape = (height, width)
    return labels.unflatten(1, shape), offsets.unflatten(2, shape)
