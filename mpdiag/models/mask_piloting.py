"""The mask-piloted (MP) part: GT class embeddings as queries, noised GT masks as attention masks.

MP-Former, sections 4.2 to 4.4 and appendix B. Nothing of it runs at inference. Where the paper's
text and the released code differ, `PilotConfig.follow` chooses:

                    paper (the default)                     release
    groups (n_g)    from each image's own number of GT      from the largest number in the batch,
                                                            each group padded to it
    point noise     a random number of points of a mask     every cell with the same probability
    label noise     another class                           any class, its own too
    padded slots    do not count in the class loss          count as no-object
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.config import PilotConfig
from mpdiag.matching import Target
from mpdiag.models.mask_noise import MaskNoise, SlotMasks, Streams, build_noise, laid_out, uniform
from mpdiag.models.pilot_feeds import Feed, class_embeddings

Follow = Literal["paper", "release"]


@dataclass(slots=True)
class Pilot:
    """The MP part of one batch, as the decoder takes it. P slots an image; -1 marks padding.

    Attributes:
        labels: (B, P) class whose embedding is the query, after label noise.
        gt: (B, P) index of the GT that each slot reconstructs (the hard assignment).
        group: (B, P) group of each slot; no attention between groups.
        masks: GT masks of the slots.
        layers: the first so many decoder layers attend within GT masks.
        noise: on these masks.
        feed: what the slots' queries are.
        streams: of each image, the source of its noise, drawn anew for each layer.
        counted: (B, P) bool, slots that count in the class loss; None for all.
    """

    labels: Tensor
    gt: Tensor
    group: Tensor
    masks: SlotMasks
    layers: int
    noise: MaskNoise
    feed: Feed
    streams: Streams
    counted: Tensor | None

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
        """(B, P, h * w) bool GT masks at a layer's resolution, noised; None past the last layer."""
        if layer >= self.layers:
            return None
        return self.noised(size).flatten(2)

    def noised(self, size: tuple[int, int]) -> Tensor:
        """(B, P, h, w) bool GT masks with noise that no other call has."""
        return self.noise(self.masks, size, self.streams)


def add_label_noise(
    labels: Tensor, ratio: float, num_classes: int, streams: Streams, follow: Follow = "paper"
) -> Tensor:
    """Replace each of (B, P) labels, with probability lambda_l, by another class (section 4.4)."""
    if num_classes < 2 or not ratio:
        return labels
    draw = uniform(laid_out(labels), (*labels.shape, 2), streams)
    if follow == "paper":
        other = (labels + 1 + (draw[..., 1] * (num_classes - 1)).long()) % num_classes
    else:
        other = (draw[..., 1] * num_classes).long()
    return torch.where((draw[..., 0] < ratio) & (labels >= 0), other, labels)


def lay_out(
    counts: Sequence[int],
    queries: int,
    follow: Follow,
    streams: Streams,
    fixed: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Slots of the MP part on the CPU: (B, P) GT index and (B, P) group, -1 for padding.

    An image with n_o objects gets n_g = floor(n_q / n_o) groups of n_o slots (appendix B); one
    with more than n_q objects gets one group of n_q of them, which its own stream chooses.

    Args:
        counts: number of GT of each image.
        queries: n_q.
        follow: see the module.
        streams: of each image.
        fixed: so many groups of all objects, in place of a number of queries.
    """
    largest = max(counts, default=0)
    rows: list[tuple[Tensor, Tensor]] = []
    for count, stream in zip(counts, streams, strict=True):
        width = largest if follow == "release" else count
        if not count:
            slots, groups = torch.empty(0, dtype=torch.int64), 0
        elif fixed is None and width > queries:
            every = torch.randperm(count, generator=stream, device=stream.device).cpu()
            slots, groups = every[:queries].sort().values, 1
        else:
            slots = F.pad(torch.arange(count), (0, width - count), value=-1)
            groups = fixed or queries // width
        rows.append((slots.repeat(groups), torch.arange(groups).repeat_interleave(len(slots))))
    most = max((len(gt) for gt, _ in rows), default=0)
    padded = [
        torch.stack([F.pad(row[part], (0, most - len(row[part])), value=-1) for row in rows])
        for part in (0, 1)
    ]
    return padded[0], padded[1]


def num_slots(
    counts: Sequence[int], queries: int, follow: Follow, fixed: int | None = None
) -> tuple[int, int]:
    """How many slots `lay_out` makes of these images: with a GT, and with none that count."""
    largest = max(counts, default=0)
    if not largest:
        return 0, 0
    widths = [largest if follow == "release" else count for count in counts]
    real = [
        count * fixed if fixed else min(count, queries) * max(queries // max(width, 1), 1)
        for count, width in zip(counts, widths, strict=True)
    ]
    if follow == "paper":
        return sum(real), 0
    return sum(real), len(counts) * max(real) - sum(real)


def assemble_pilot(
    targets: Sequence[Target],
    config: PilotConfig,
    *,
    layers: int,
    num_classes: int,
    streams: Streams,
    feed: Feed = class_embeddings,
) -> Pilot | None:
    """The MP part of a batch, or None when no image has GT.

    Args:
        targets: GT of the B images, masks over the same padded extent.
        config: number of queries and noise.
        layers: how many decoder layers attend within GT masks (0..L).
        num_classes: K, for label noise.
        streams: of each image, the source of all its noise.
        feed: what the slots' queries are.
    """
    counts = [len(target["labels"]) for target in targets]
    gt, group = lay_out(counts, config.queries, config.follow, streams, config.groups)
    if not gt.shape[1]:
        return None
    device = targets[0]["masks"].device
    gt, group = gt.to(device), group.to(device)
    known = torch.stack([F.pad(t["labels"], (0, max(counts) - len(t["labels"]))) for t in targets])
    labels = torch.where(gt >= 0, known.gather(1, gt.clamp(min=0)), -1)
    labels = add_label_noise(labels, config.label_noise, num_classes, streams, config.follow)
    return Pilot(
        labels,
        gt,
        group,
        SlotMasks([target["masks"] for target in targets], gt),
        layers,
        build_noise(config),
        feed,
        streams,
        None if config.follow == "release" else gt >= 0,
    )
