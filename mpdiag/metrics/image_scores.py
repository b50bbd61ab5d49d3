"""Scores of a data set that follow from terms of its images, so that images can be resampled."""

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class ImageScores(ABC):
    """The terms of I images. An image of weight 2 counts like two images.

    Attributes:
        num_images: I.
        hits: (I,) how much of the GT of each image is found.
    """

    num_images: int
    hits: Floats

    def values(self, weights: Floats | None = None) -> Floats:
        """Return the (R,) scores under (R, I) weights of the images; one score without weights.

        A score is averaged over the classes that count. It is NaN if none does.
        """
        values = self.class_values(weights)
        known = ~np.isnan(values)
        total = np.where(known, values, 0).sum(1)
        return np.where(known.any(1), total / np.maximum(known.sum(1), 1), np.nan)

    def class_values(self, weights: Floats | None = None) -> Floats:
        """Return the (R, K) scores of each class, NaN for a class that does not count."""
        return self._class_values(np.ones((1, self.num_images)) if weights is None else weights)

    @abstractmethod
    def _class_values(self, weights: Floats) -> Floats:
        """Return the (R, K) scores under (R, I) weights."""


class ClassRatios(ImageScores):
    """The ratio of two sums over images for each class: PQ and IoU."""

    def __init__(self, part: Floats, whole: Floats) -> None:
        """Keep the (I, K) terms of both sums. A class whose `whole` is 0 does not count."""
        self.num_images = len(part)
        self.hits = part.sum(1)
        self._part, self._whole = part, whole

    def _class_values(self, weights: Floats) -> Floats:
        part, whole = weights @ self._part, weights @ self._whole
        return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
