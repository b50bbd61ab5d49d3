"""Changes to decoder layers and their outputs: early layers left out, other mask thresholds."""

from collections.abc import Iterator

import numpy as np

from mpdiag.diagnosis.candidate import Candidate
from mpdiag.diagnosis.changes import Changes, can_change_input
from mpdiag.diagnosis.evidence import Evidence
from mpdiag.diagnosis.probe import assigned_gt
from mpdiag.diagnosis.trials import Trials

EARLY = 0.5  # share of the decoder layers
BIASES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)  # of mask logits
MIN_AREA_CHANGE = 0.15
MIN_OBJECTS = 20


def check_early_layers(trials: Trials) -> Iterator[Candidate]:
    """Yield the first layers without which AP is highest, if there are such."""
    if not can_change_input(trials.collector.adapter):
        return
    early = range(1, int(EARLY * trials.base.num_layers) + 1)
    changes = {f"1 to {k}": Changes(skipped_layers=frozenset(range(1, k + 1))) for k in early}
    best = trials.best("early-layers", changes) if changes else None
    if best is not None:
        layers = tuple(sorted(best[1].skipped_layers))
        yield Candidate("early-layers", changes=best[1], layers=layers)


def check_mask_area(trials: Trials) -> Iterator[Candidate]:
    """Yield the bias of the mask logits with the highest AP, if masks are too small or too large.

    It stands for another threshold of the masks.
    """
    ratio = median_area_ratio(trials.base)
    if abs(ratio - 1) < MIN_AREA_CHANGE:
        return
    sign = 1 if ratio < 1 else -1
    changes = {str(sign * bias): Changes(mask_bias=sign * bias) for bias in BIASES}
    best = trials.best("localisation", changes)
    if best is not None:
        yield Candidate(
            "localisation",
            changes=best[1],
            evidence={"mask_area_by_gt_area": ratio, "bias_of_mask_logits": best[1].mask_bias},
        )


def median_area_ratio(evidence: Evidence) -> float:
    """Return the median of mask area by GT area, over GT and their queries; 1 if there are few."""
    ratios = [np.zeros(0)]
    for image in evidence.images:
        gt = assigned_gt(image, limit=0.2)
        found = np.flatnonzero(gt >= 0)
        area = image.area[-1, found] * image.pixels
        ratios.append(area / np.maximum(image.gt_area[gt[found]], 1))
    every = np.concatenate(ratios)
    every = every[~np.isnan(every)]
    return float(np.median(every)) if len(every) >= MIN_OBJECTS else 1.0
