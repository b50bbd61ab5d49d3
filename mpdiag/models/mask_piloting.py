"""The mask-piloted (MP) part: GT class embeddings as queries, noised GT masks as attention masks.

MP-Former, sections 4.2 to 4.4 and appendix B. Nothing of it runs at inference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.config import PilotConfig
from mpdiag.matching import Target


@dataclass(slots=True)
class Pilot:
    """The MP part of one batch, as the decoder takes it. P slots an image; -1 marks padding.

    Attributes:
        labels: (B, P) class whose embedding is the query, after label noise.
        gt: (B, P) index of the GT that each slot reconstructs (the hard assignment).
        group: (B, P) group of each slot; no attention between groups.
        masks: (B, G_max, H, W) bool GT masks over the padded image.
        layers: the first so many decoder layers attend within GT masks.
        point_noise: lambda_p.
        generator: source of the noise, drawn anew for each layer.
    """

    labels: Tensor
    gt: Tensor
    group: Tensor
    masks: Tensor
    layers: int
    point_noise: float
    generator: torch.Generator
    _touched: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    def self_visible(self, num_queries: int) -> Tensor:
        """(B, P + N, P + N) bool: who may attend to whom in self-attention.

        A matching query sees matching queries alone, an MP query its own group and the matching
        part (appendix B: the MP part knows the GT and would be copied from).
        """
        slots = self.group.shape[1]
        group = F.pad(self.group, (0, num_queries), value=-2)
        same = group[:, :, None] == group[:, None, :]
        same[:, :slots, slots:] = True
        return same

    def visible(self, layer: int, size: tuple[int, int]) -> Tensor | None:
        """(B, P, h * w) bool GT masks at a layer's resolution, noised; None past the last layer.

        Every cell that a GT touches is visible, so that no object is lost to interpolation.
        """
        if layer >= self.layers:
            return None
        if size not in self._touched:
            touched = F.adaptive_max_pool2d(self.masks.to(torch.float32), size) > 0
            slots = self.gt.clamp(min=0)[..., None].expand(-1, -1, size[0] * size[1])
            self._touched[size] = touched.flatten(2).gather(1, slots) & (self.gt >= 0)[..., None]
        visible = self._touched[size]
        if self.point_noise:
            visible = add_point_noise(visible, self.point_noise, self.generator)
        return visible


def add_point_noise(masks: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """Flip random cells of (B, P, cells) bool masks (section 4.3).

    The number of points is uniform in 0..floor(lambda_p * area) for each mask, their places are
    uniform over the map; a place drawn twice flips once. (The released code instead flips every
    cell with probability lambda_p * area / cells.)
    """
    cells = masks.shape[-1]
    most = (masks.sum(-1, keepdim=True) * ratio).floor()
    limit = int(most.max()) if masks.numel() else 0
    if not limit:
        return masks
    device = generator.device
    shape = masks.shape[:-1]
    draw = torch.rand(*shape, 1, generator=generator, device=device).to(masks.device)
    count = (draw * (most + 1)).floor()
    place = torch.randint(cells, (*shape, limit), generator=generator, device=device)
    place = place.to(masks.device)
    drawn = torch.arange(limit, device=masks.device) < count
    place = torch.where(drawn, place, cells)  # a spare cell takes the places that were not drawn
    flips = masks.new_zeros(*shape, cells + 1).scatter_(-1, place, True)[..., :cells]
    return masks ^ flips


def add_label_noise(
    labels: Tensor, ratio: float, num_classes: int, generator: torch.Generator
) -> Tensor:
    """Replace each label, with probability lambda_l, by another class (section 4.4).

    Another class than its own, uniformly. (The released code may draw the same class again.)
    """
    if num_classes < 2 or not ratio:
        return labels
    device = generator.device
    chance = torch.rand(labels.shape, generator=generator, device=device).to(labels.device)
    step = torch.randint(1, num_classes, labels.shape, generator=generator, device=device)
    other = (labels + step.to(labels.device)) % num_classes
    return torch.where((chance < ratio) & (labels >= 0), other, labels)


def lay_out(
    counts: Sequence[int], queries: int, by: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Slots of the MP part: (B, P) GT index and (B, P) group, -1 for padding.

    An image with n_o objects gets n_g = floor(n_q / n_o) groups of n_o slots (appendix B); one
    with more than n_q objects gets one group of n_q of them, at random.

    Args:
        counts: number of GT of each image.
        queries: n_q.
        by: "image": n_o is the image's own (the paper); "batch": the largest in the batch, each
            group padded to it (the released code).
    """
    largest = max(counts, default=0)
    rows: list[tuple[Tensor, Tensor]] = []
    for count in counts:
        width = largest if by == "batch" else count
        if not count:
            slots = torch.empty(0, dtype=torch.int64)
            groups = 0
        elif width > queries:
            every = torch.randperm(count, generator=generator, device=generator.device).cpu()
            slots, groups = every[:queries].sort().values, 1
        else:
            slots = F.pad(torch.arange(count), (0, width - count), value=-1)
            groups = queries // width
        rows.append((slots.repeat(groups), torch.arange(groups).repeat_interleave(len(slots))))
    most = max((len(gt) for gt, _ in rows), default=0)
    padded = [
        torch.stack([F.pad(row[part], (0, most - len(row[part])), value=-1) for row in rows])
        for part in (0, 1)
    ]
    return padded[0], padded[1]


def assemble_pilot(
    targets: Sequence[Target],
    config: PilotConfig,
    *,
    layers: int,
    num_classes: int,
    generator: torch.Generator,
) -> Pilot | None:
    """The MP part of a batch, or None when no image has GT.

    Args:
        targets: GT of the B images, masks over the same padded extent.
        config: number of queries and noise.
        layers: how many decoder layers attend within GT masks (1, the first k, or all).
        num_classes: K, for label noise.
        generator: source of all noise.
    """
    counts = [len(target["labels"]) for target in targets]
    gt, group = lay_out(counts, config.queries, config.groups, generator)
    if not gt.shape[1]:
        return None
    device = targets[0]["masks"].device
    gt, group = gt.to(device), group.to(device)
    most = max(counts)
    masks = torch.stack([_pad_rows(target["masks"], most) for target in targets])
    known = torch.stack([_pad_rows(target["labels"], most) for target in targets])
    labels = torch.where(gt >= 0, known.gather(1, gt.clamp(min=0)), -1)
    labels = add_label_noise(labels, config.label_noise, num_classes, generator)
    return Pilot(labels, gt, group, masks, layers, config.point_noise, generator)


def _pad_rows(rows: Tensor, count: int) -> Tensor:
    missing = rows.new_zeros(count - len(rows), *rows.shape[1:])
    return torch.cat([rows, missing])
