"""Read the ground truth of each image once, and keep it for several passes over a few images."""

from dataclasses import dataclass

from torch import Tensor

from mpdiag.data import GroundTruth, Sample, SegmentationDataset
from mpdiag.ops import decode_masks, encode_masks


@dataclass(frozen=True, slots=True)
class EncodedGroundTruth:
    """A `GroundTruth` with masks as COCO compressed RLE."""

    counts: list[bytes]
    size: tuple[int, int]
    labels: Tensor
    crowd: Tensor
    areas: Tensor


class GroundTruthCache:
    """The ground truth of a data set. Each image is read once and kept encoded.

    Attributes:
        encoded: ground truth by image id.
    """

    def __init__(self, data: SegmentationDataset) -> None:
        self.encoded: dict[int, EncodedGroundTruth] = {}
        self._data = data
        self._index = {image_id: index for index, image_id in enumerate(data.image_ids)}

    def read_sample(self, index: int) -> Sample:
        """Read an image with its ground truth, and keep the ground truth.

        Raises:
            DataError: image or annotation is unreadable, or their sizes differ.
        """
        image = self._data.image(index)
        ground_truth = self._data.ground_truth(index)
        self._keep(self._data.image_ids[index], ground_truth)
        return self._data.sample(index, image, ground_truth)

    def get(self, image_id: int) -> GroundTruth:
        """Return the ground truth of an image; read it if it is not kept yet."""
        if image_id not in self.encoded:
            self._keep(image_id, self._data.ground_truth(self._index[image_id]))
        kept = self.encoded[image_id]
        masks = decode_masks(kept.counts, *kept.size)
        return GroundTruth(masks, kept.labels, kept.crowd, kept.areas)

    def _keep(self, image_id: int, ground_truth: GroundTruth) -> None:
        height, width = ground_truth.masks.shape[-2:]
        self.encoded[image_id] = EncodedGroundTruth(
            encode_masks(ground_truth.masks),
            (height, width),
            ground_truth.labels,
            ground_truth.crowd,
            ground_truth.areas,
        )
