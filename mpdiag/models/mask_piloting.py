"""The mask-piloted (MP) part: GT class embeddings as queries, noised GT masks as attention masks.

MP-Former, sections 4.2 to 4.4 and appendix B. It is used in training only. Where the paper and the
official code differ, `PilotConfig.variant` selects one of them:

                     paper (default)                        official
    groups (n_g)     from each image's own number of GT     from the largest number in the batch;
                                                            each group is padded to it
    more GT than     not in the paper; here a group of      no MP part for the whole batch
    queries (n_q)    n_q random GT
    point noise      a random number of points of a mask    every cell with the same probability
    label noise      another class                          any class, including its own
    padding queries  ignored by the class loss              no-object in the class loss
    feature-mean     the mask features get a gradient       they get none

Shift and scale noise are those of the paper in both variants.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpdiag.config import PilotConfig
from mpdiag.matching import Target
from mpdiag.models.mask_noise import (
    Generators,
    MaskNoise,
    QueryMasks,
    build_noise,
    uniform_per_image,
)
from mpdiag.ops import to_device


@dataclass(slots=True)
class PilotInputs:
    """Inputs of the decoder for the MP part of one batch, P queries per image; -1 marks padding.

    Attributes:
        labels: (B, P) class whose embedding is the query, after label noise.
        gt: (B, P) index of the GT that each query reconstructs (the hard assignment).
        group: (B, P) group of each query; queries of different groups do not attend to each other.
        gt_on_cpu, group_on_cpu: the same on the CPU, for matching and losses.
        masks: GT masks of the queries.
        layers: number of decoder layers, from the first, that use GT masks as attention masks.
        noise: noise on these masks.
        query_input: computes the decoder's queries.
        generators: random generator of each image, drawn from anew for each layer.
        in_class_loss: (B, P) bool, queries that the class loss includes; None for all.
    """

    labels: Tensor
    gt: Tensor
    group: Tensor
    gt_on_cpu: Tensor
    group_on_cpu: Tensor
    masks: QueryMasks
    layers: int
    noise: MaskNoise
    query_input: "QueryInput"
    generators: Generators
    in_class_loss: Tensor | None

    def self_visible(self, num_queries: int) -> Tensor:
        """Return the self-attention mask, (B, P + N, P + N) bool, True where attention is allowed.

        Matching queries attend to matching queries only. MP queries attend to their own group and
        to the matching queries (appendix B: the MP part must not leak GT into the matching part).
        """
        queries = self.group.shape[1]
        group = F.pad(self.group, (0, num_queries), value=-2)
        same = group[:, :, None] == group[:, None, :]
        same[:, :queries, queries:] = True
        return same

    def match_groups(self) -> Tensor:
        """Return the (B, P) groups for `mpdiag.matching.match` on the CPU, -1 for padding."""
        return self.group_on_cpu.where(self.gt_on_cpu >= 0, -1)

    def visible(self, layer: int, size: tuple[int, int]) -> Tensor | None:
        """Return noised GT masks as (B, P, h * w) bool attention masks, or None after `layers`."""
        if layer >= self.layers:
            return None
        return self.noised_masks(size).flatten(2)

    def noised_masks(self, size: tuple[int, int]) -> Tensor:
        """Return (B, P, h, w) bool GT masks with newly drawn noise."""
        return self.noise(self.masks, size, self.generators)


QueryInput = Callable[[PilotInputs, nn.Embedding | None, Tensor], tuple[Tensor, Tensor | None]]
"""(pilot, class embeddings, mask features (B, C, h, w)) -> content and position queries (B, P, C).

The position is None for zeros. Padding queries are zero in both.
"""


def class_embeddings(
    pilot: PilotInputs, label_embed: nn.Embedding | None, mask_features: Tensor
) -> tuple[Tensor, None]:
    """Return the embeddings of the GT classes, after label noise (section 4.4)."""
    if label_embed is None:
        raise ValueError("an MP part needs a model with label_embedding=True")
    content: Tensor = label_embed(pilot.labels.clamp(min=0)) * (pilot.labels >= 0)[..., None]
    return content, None


def add_label_noise(
    labels: Tensor,
    config: PilotConfig,
    num_classes: int,
    counts: Sequence[int],
    generators: Generators,
) -> Tensor:
    """Replace each of (B, P) labels by another class with probability `label_noise` (section 4.4).

    `counts` is the number of queries of each image, see `uniform_per_image`.
    """
    if num_classes < 2 or not config.label_noise:
        return labels
    draw = uniform_per_image(counts, (*labels.shape, 2), generators)
    if config.variant == "paper":
        other = (labels + 1 + (draw[..., 1] * (num_classes - 1)).long()) % num_classes
    else:
        other = (draw[..., 1] * num_classes).long()
    return torch.where((draw[..., 0] < config.label_noise) & (labels >= 0), other, labels)


def group_queries(
    counts: Sequence[int], config: PilotConfig, generators: Generators
) -> tuple[Tensor, Tensor]:
    """Divide the MP queries of each image into groups, with one query per GT and group.

    An image with n_o objects has n_g groups of n_o queries; n_g is n_q / n_o, rounded down
    (appendix B). For more than n_q objects the paper defines nothing: the image then has one group
    of n_q randomly chosen objects, or with `variant` official, no image of the batch has a query.

    Args:
        counts: number of GT of each image.
        config: n_q, n_g if it is fixed, and the variant.
        generators: random generator of each image.

    Returns:
        (B, P) GT index and (B, P) group of each query on the CPU; -1 for padding.
    """
    queries, num_groups = config.num_queries, config.num_groups
    official, largest = config.variant == "official", max(counts, default=0)
    if official and num_groups is None and largest > queries:
        counts = [0] * len(counts)
    rows: list[tuple[Tensor, Tensor]] = []
    for count, generator in zip(counts, generators, strict=True):
        width = largest if official else count
        if not count:
            gt, groups = torch.empty(0, dtype=torch.int64), 0
        elif num_groups is None and width > queries:
            order = torch.randperm(count, generator=generator, device=generator.device).cpu()
            gt, groups = order[:queries].sort().values, 1
        else:
            gt = F.pad(torch.arange(count), (0, width - count), value=-1)
            groups = num_groups or queries // width
        rows.append((gt.repeat(groups), torch.arange(groups).repeat_interleave(len(gt))))
    length = max((len(gt) for gt, _ in rows), default=0)
    gt, group = (
        torch.stack([F.pad(row[part], (0, length - len(row[part])), value=-1) for row in rows])
        for part in (0, 1)
    )
    return gt, group


def pilot_normalizers(
    counts: Sequence[int], config: PilotConfig, no_object_weight: float
) -> tuple[float, float]:
    """Return what images with these numbers of GT add to the sums that divide the MP losses.

    Returns:
        Number of MP queries with a GT, and the sum of the weights of the class loss.
    """
    gt, _ = group_queries(counts, config, [torch.Generator()] * len(counts))
    with_gt = int((gt >= 0).sum())
    padding = gt.numel() - with_gt if config.variant == "official" else 0
    return with_gt, with_gt + no_object_weight * padding


def build_pilot_inputs(
    targets: Sequence[Target],
    config: PilotConfig,
    *,
    layers: int,
    num_classes: int,
    generators: Generators,
    query_input: QueryInput = class_embeddings,
) -> PilotInputs | None:
    """Build the MP part of a batch; None when no image has GT.

    Args:
        targets: GT of the B images, masks over the same padded size.
        config: number of queries and noise.
        layers: number of decoder layers that use GT masks as attention masks (0..L).
        num_classes: K, for label noise.
        generators: random generator of each image.
        query_input: computes the decoder's queries.
    """
    counts = [len(target["labels"]) for target in targets]
    gt_on_cpu, group_on_cpu = group_queries(counts, config, generators)
    if not gt_on_cpu.shape[1]:
        return None
    masks = QueryMasks([target["masks"] for target in targets], gt_on_cpu)
    gt, group = masks.gt, to_device(group_on_cpu, masks.gt.device)
    known = torch.stack([F.pad(t["labels"], (0, max(counts) - len(t["labels"]))) for t in targets])
    labels = torch.where(gt >= 0, known.gather(1, gt.clamp(min=0)), -1)
    labels = add_label_noise(labels, config, num_classes, masks.counts, generators)
    return PilotInputs(
        labels,
        gt,
        group,
        gt_on_cpu,
        group_on_cpu,
        masks,
        layers,
        build_noise(config),
        query_input,
        generators,
        None if config.variant == "official" else gt >= 0,
    )
