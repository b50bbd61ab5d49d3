"""Methods of the paper: each turns a batch into the losses that train a model."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.config import LossConfig, TrainConfig
from mpdiag.errors import ConfigError
from mpdiag.losses import SetLosses, UncertainPoints, set_losses
from mpdiag.matching import MatchingCosts, Target, match
from mpdiag.models import Mask2Former, Output, Pilot, Predictions, assemble_pilot
from mpdiag.ops import cell_centers, sample_masks

Losses = dict[str, Tensor]


class Baseline(nn.Module):
    """Mask2Former's training: match every layer anew and supervise every layer."""

    def __init__(self, model: Mask2Former, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.loss = config.loss
        self.costs = MatchingCosts(
            config.loss.class_weight, config.loss.mask_weight, config.loss.dice_weight
        )

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target], generator: torch.Generator
    ) -> Losses:
        """Weighted losses by their official names (loss_ce_3, loss_mask, ...), each a scalar.

        Args:
            images: uint8 (3, H, W) on the model's device.
            targets: their GT, masks over the batch's padded extent.
            generator: source of all randomness of this step.
        """
        output = self.model(images)
        return self._matching_losses(output.matching, targets, generator)

    def _matching_losses(
        self, predictions: Predictions, targets: Sequence[Target], generator: torch.Generator
    ) -> Losses:
        points = None
        if self.loss.points != "all":
            points = torch.rand(self.loss.points, 2, generator=generator, device=generator.device)
        assignment = match(
            predictions.class_logits,
            predictions.mask_logits,
            targets,
            costs=self.costs,
            points=points,
        )
        count = sum(len(target["labels"]) for target in targets)
        return self._named(predictions, targets, assignment, generator, count, "")

    def _named(
        self,
        predictions: Predictions,
        targets: Sequence[Target],
        assignment: Tensor,
        generator: torch.Generator,
        count: int,
        suffix: str,
    ) -> Losses:
        losses = set_losses(
            predictions.class_logits,
            predictions.mask_logits,
            targets,
            assignment,
            point_picker(self.loss, generator),
            num_masks=max(count, 1),
            no_object_weight=self.loss.no_object_weight,
        )
        return named_losses(losses, self.loss, suffix)


class Piloted(Baseline):
    """MP-Former's training: the matching part as in the baseline, beside it the MP part.

    The first `layers` decoder layers of the MP part attend within noised GT masks; its
    predictions are assigned to their GT directly (section 4.2).
    """

    def __init__(self, model: Mask2Former, config: TrainConfig, layers: int) -> None:
        super().__init__(model, config)
        self.pilot = config.pilot
        self.layers = layers

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target], generator: torch.Generator
    ) -> Losses:
        pilot = assemble_pilot(
            targets,
            self.pilot,
            layers=self.layers,
            num_classes=self.model.config.num_classes,
            generator=generator,
        )
        output: Output = self.model(images, pilot)
        losses = self._matching_losses(output.matching, targets, generator)
        if pilot is not None and output.piloted is not None:
            losses |= self._piloted_losses(output.piloted, pilot, targets, generator)
        return losses

    def _piloted_losses(
        self,
        predictions: Predictions,
        pilot: Pilot,
        targets: Sequence[Target],
        generator: torch.Generator,
    ) -> Losses:
        assignment = pilot.gt.expand(len(predictions.class_logits), -1, -1)
        count = int((pilot.gt >= 0).sum())
        return self._named(predictions, targets, assignment, generator, count, "_dn")


class PerPixel(nn.Module):
    """Warm start for backbone and pixel decoder: class and centre offset of every pixel.

    Stands in for ImageNet weights where there are none: a linear head on the mask features and on
    each level predicts what a cell belongs to and how far away its object's centre is (in
    fractions of the image). The heads are thrown away afterwards.
    """

    def __init__(self, model: Mask2Former, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        settings = model.config
        outputs = settings.num_classes + 1 + 2
        self.heads = nn.ModuleList(
            nn.Conv2d(channels, outputs, 1)
            for channels in (*[settings.hidden_dim] * 3, settings.mask_dim)
        )

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target], generator: torch.Generator
    ) -> Losses:
        model = self.model
        levels, mask_features = model.pixel_decoder(model.backbone(model.batch(images)))
        losses: Losses = {}
        strides = ("32", "16", "8", "4")
        for head, features, stride in zip(
            self.heads, (*levels, mask_features), strides, strict=True
        ):
            prediction = head(features)
            labels, offsets = _per_pixel_truth(targets, features, model.config.num_classes)
            classes, offset = prediction.split([model.config.num_classes + 1, 2], dim=1)
            losses[f"loss_class_{stride}"] = F.cross_entropy(classes, labels)
            inside = (labels < model.config.num_classes)[:, None]
            error = (offset - offsets).abs() * inside
            losses[f"loss_offset_{stride}"] = 5 * error.sum() / inside.sum().clamp(min=1)
        return losses


def _per_pixel_truth(
    targets: Sequence[Target], features: Tensor, background: int
) -> tuple[Tensor, Tensor]:
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


Method = Baseline | Piloted | PerPixel

METHODS: dict[str, Callable[[Mask2Former, TrainConfig], Method]] = {
    "baseline": Baseline,
    "piloted": lambda model, config: Piloted(model, config, layers=config.pilot.layers),
    "piloted-all-layers": lambda model, config: Piloted(
        model, config, layers=model.config.decoder_layers
    ),
    "per-pixel": PerPixel,
}


def needs_label_embedding(method: str) -> bool:
    """Whether the model of this method has class embeddings for an MP part."""
    return check_method(method).startswith("piloted")


def check_method(name: str) -> str:
    """`name` itself; raises ConfigError when there is no such method."""
    if name not in METHODS:
        raise ConfigError(f"method = {name}: no such method; there are {', '.join(METHODS)}")
    return name


def point_picker(loss: LossConfig, generator: torch.Generator) -> UncertainPoints | None:
    """Where the losses compare masks; None for every cell."""
    if loss.points == "all":
        return None
    return UncertainPoints(generator, loss.points, loss.oversample, loss.importance)


def named_losses(losses: SetLosses, weights: LossConfig, suffix: str) -> Losses:
    """Weighted losses by official name: layer L without an index, M^i as `_i`, MP part `_dn`."""
    terms = {
        "loss_ce": weights.class_weight * losses.class_,
        "loss_mask": weights.mask_weight * losses.mask,
        "loss_dice": weights.dice_weight * losses.dice,
    }
    last = len(losses.class_) - 1
    return {
        f"{name}{suffix}" + ("" if layer == last else f"_{layer}"): value
        for name, values in terms.items()
        for layer, value in enumerate(values.unbind())
    }
