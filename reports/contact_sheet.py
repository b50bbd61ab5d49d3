"""A page of training images with their masks."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from reports.document import Document, Picture, Section
from reports.mask_images import Mask, RgbImage, tint
from reports.palette import GT_COLORS, cycle

_MAX_SIDE = 360


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image with its objects.

    Attributes:
        name: file of the image.
        image: uint8 (H, W, 3), RGB.
        masks: bool (G, H, W).
        labels: class name of each mask.
    """

    name: str
    image: RgbImage
    masks: Mask
    labels: Sequence[str]


def contact_sheet(title: str, text: str, images: Sequence[LabelledImage]) -> Document:
    """Return a document that shows each image with the masks of its objects."""
    pictures = tuple(_picture(number, image) for number, image in enumerate(images, 1))
    return Document("pictures", title, (Section("Images", (text,), pictures=pictures),))


def _picture(number: int, labelled: LabelledImage) -> Picture:
    masked = labelled.image
    for index, mask in enumerate(labelled.masks):
        masked = tint(masked, mask, cycle(GT_COLORS, index))
    stream = io.BytesIO()
    picture = Image.fromarray(masked)
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    picture.save(stream, format="JPEG", quality=88)
    counts = Counter(labelled.labels)
    objects = ", ".join(f"{count} {label}" for label, count in counts.most_common()) or "no object"
    height, width = labelled.image.shape[:2]
    caption = f"{labelled.name}: {objects} ({height} x {width} pixels)"
    alt = f"Image with masks. {caption}"
    return Picture(f"{number}.jpg", stream.getvalue(), caption, alt, thumbnail=True)
