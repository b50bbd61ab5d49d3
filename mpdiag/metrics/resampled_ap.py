"""AP of resampled images, for confidence intervals."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mpdiag.metrics.average_precision import ImageMatches

Floats = npt.NDArray[np.float64]

NUM_AREAS, NUM_THRESHOLDS = 4, 10  # of COCO; the first area range is all areas
_RECALLS = np.linspace(0, 1, 101)


def resampled_ap(
    images: Sequence[ImageMatches], classes: Sequence[int], draws: npt.ArrayLike
) -> Floats:
    """Return COCO's AP of R samples of images, (R,); NaN if no GT counts.

    An image that is drawn twice counts as two images. Matches do not depend on other images, so
    they are computed once. A precision is only read where a detection matches, because recall does
    not change elsewhere.

    Args:
        images: matches of I images.
        classes: class indices to average over.
        draws: (R, I), how often each image is drawn.
    """
    weights = np.asarray(draws, dtype=np.float64)
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for label in classes:
        terms = _ClassTerms.read(images, label)
        for row, drawn in enumerate(weights):
            positives = drawn @ terms.counted
            if positives:
                total[row] += terms.precision(drawn, positives)
                count[row] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


class _ClassTerms:
    """Detections of a class in the order of their scores.

    Attributes:
        image: (D,) position of each detection's image.
        matched: for each IoU threshold, the positions of the detections that match a GT.
        kept: for each IoU threshold, (D,) bool, False for detections that are ignored; None if
            none is.
        counted: (I,) number of GT of each image.
    """

    def __init__(
        self,
        image: npt.NDArray[np.int64],
        matched: npt.NDArray[np.bool_],
        ignored: npt.NDArray[np.bool_],
        counted: Floats,
    ) -> None:
        self.image = image
        self.matched = [np.flatnonzero(row) for row in matched & ~ignored]
        self.kept = [~row if row.any() else None for row in ignored]
        self.counted = counted

    @classmethod
    def read(cls, images: Sequence[ImageMatches], label: int) -> "_ClassTerms":
        """Collect the detections of a class from all images."""
        rows = [np.flatnonzero(image.labels == label) for image in images]
        order = np.argsort(
            -np.concatenate([one.scores[row] for one, row in zip(images, rows, strict=True)]),
            kind="stable",
        )
        matched, ignored = (
            np.concatenate(
                [_bits(getattr(one, name)[:, row]) for one, row in zip(images, rows, strict=True)],
                axis=1,
            )[:, order]
            for name in ("matched", "ignored")
        )
        image = np.repeat(np.arange(len(images)), [len(row) for row in rows])[order]
        counted = [
            np.sum((one.counted[:, 0] == label) & (one.counted[:, 1] == 0)) for one in images
        ]
        return cls(image, matched, ignored, np.array(counted, dtype=np.float64))

    def precision(self, drawn: Floats, positives: float) -> float:
        """Return the precision averaged over IoU thresholds and 101 recalls."""
        weight = drawn[self.image]
        everything = np.cumsum(weight)
        total = 0.0
        for matched, kept in zip(self.matched, self.kept, strict=True):
            detections = everything if kept is None else np.cumsum(weight * kept)
            found = np.cumsum(weight[matched])
            below = detections[matched]
            precision = np.divide(found, below, out=np.zeros_like(found), where=below > 0)
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(found / positives, _RECALLS)
            total += envelope[at[at < len(envelope)]].sum()
        return total / (len(_RECALLS) * NUM_THRESHOLDS)


def _bits(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return (T, D) values of all areas from the bits of an `ImageMatches`."""
    bits = np.unpackbits(packed, axis=0, count=NUM_AREAS * NUM_THRESHOLDS)
    return bits[:NUM_THRESHOLDS].astype(np.bool_)
