"""GT and image sizes in the conventions of the libraries, on inputs written by hand."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpdiag.errors import DataError
from mpdiag.integrations.batch import PredictionShape, find_targets, read_batch

GRID = (4, 8)  # of an image of 16 x 32 pixels
CLASSES = 3
SHAPE = PredictionShape(1, CLASSES, GRID, 4)

LABELS = torch.tensor([2, 0])
MASKS = torch.zeros(2, 12, 20, dtype=torch.bool)
MASKS[0, 2:6, 4:9] = True
MASKS[1, 8:12, 10:20] = True


class Instances(SimpleNamespace):
    """What the monitor reads of detectron2's class."""

    def has(self, name: str) -> bool:
        return hasattr(self, name)


def instances(**masks: Any) -> Instances:
    return Instances(gt_classes=LABELS, image_size=(12, 20), **masks)


def corners(left: int, top: int, right: int, bottom: int) -> list[Any]:
    return [np.array([left, top, right, top, right, bottom, left, bottom], dtype=float)]


POLYGONS = SimpleNamespace(polygons=[corners(4, 2, 9, 6), corners(10, 8, 20, 12)])


class BitmapMasks:
    """Masks of mmdetection, over the padded batch."""

    def to_tensor(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        return F.pad(MASKS, (0, 12, 0, 4)).to(device, dtype)


SAMPLE = SimpleNamespace(
    img_shape=(12, 20), gt_instances=SimpleNamespace(labels=LABELS, masks=BitmapMasks())
)


@pytest.mark.parametrize(
    "given",
    [
        {"pixel_values": None, "mask_labels": [MASKS.float()], "class_labels": [LABELS]},
        {"labels": [{"class_labels": LABELS, "masks": MASKS, "boxes": torch.zeros(2, 4)}]},
        (torch.zeros(1, 3, 12, 20), [{"labels": LABELS.int(), "masks": MASKS.to(torch.uint8)}]),
        {"batched_inputs": [{"image": None, "instances": instances(gt_masks=MASKS)}]},
        [{"labels": LABELS.tolist(), "masks": list(MASKS)}],
        [{"labels": LABELS.numpy(), "masks": [mask.numpy() for mask in MASKS]}],
        [{"instances": instances(gt_masks=SimpleNamespace(tensor=MASKS))}],
        [{"instances": instances(gt_masks=POLYGONS)}],
        {"inputs": torch.zeros(1, 3, 16, 32), "data_samples": [SAMPLE]},
    ],
    ids=[
        *("transformers", "DETR", "torchvision", "tensor", "list", "numpy"),
        *("BitMasks", "PolygonMasks", "mmdetection"),
    ],
)
def test_all_conventions_give_the_same_gt(given: Any) -> None:
    (target,) = find_targets(given) or []
    assert target["labels"].tolist() == [2, 0] and target["labels"].dtype == torch.int64
    assert target["masks"].dtype == torch.bool and torch.equal(target["masks"], MASKS)


def test_padding_of_processors_is_no_object() -> None:
    """Those of transformers pad float masks with `ignore_index`."""
    padded = torch.full((2, 16, 32), 255.0)
    padded[:, :12, :20] = MASKS.float()
    (found,) = find_targets({"mask_labels": [padded], "class_labels": [LABELS]}) or ()
    assert torch.equal(found["masks"][:, :12, :20], MASKS)
    assert found["masks"].sum() == MASKS.sum()


def test_float_masks_of_0_and_255_give_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    find_targets([{"labels": LABELS, "masks": MASKS.float()}])
    assert not caplog.records
    find_targets([{"labels": LABELS, "masks": MASKS.float() * 255}])
    assert "they contain 255 and no 1; give masks of 0 and 1" in caplog.text


def test_images_without_objects() -> None:
    (target,) = find_targets([{"instances": instances()}]) or []
    assert target["masks"].shape == (0, 12, 20) and len(target["labels"]) == 0
    assert find_targets({"pixel_values": torch.zeros(1, 3, 4, 4)}) is None
    assert find_targets([]) is None and find_targets("masks") is None


def inside(height: int, width: int) -> Tensor:
    mask = torch.zeros(1, 16, 32, dtype=torch.bool)
    mask[:, :height, :width] = True
    return mask


@pytest.mark.parametrize(
    "inputs",
    [
        {"pixel_values": torch.zeros(1, 3, 16, 32), "pixel_mask": inside(12, 20)},
        {"samples": SimpleNamespace(tensors=torch.zeros(1, 3, 16, 32), mask=~inside(12, 20))},
        {"images": [torch.zeros(3, 12, 20)]},
        {"batched_inputs": [{"image": torch.zeros(3, 12, 20)}]},
    ],
    ids=["pixel_mask", "NestedTensor", "list", "detectron2"],
)
def test_masks_are_padded_to_the_batch_and_cells_are_those_of_the_image(inputs: Any) -> None:
    batch = read_batch(inputs, [{"labels": LABELS, "masks": MASKS}], SHAPE)
    assert batch.padded == (16, 32) and list(batch.images) == [(12, 20)]
    assert batch.valid_cells(0, GRID) == (3, 5)
    (target,) = batch.targets or []
    assert target["masks"].shape == (2, 16, 32)
    assert torch.equal(target["masks"][:, :12, :20], MASKS)
    assert target["masks"].sum() == MASKS.sum()


def test_unreadable_targets_are_an_error() -> None:
    with pytest.raises(DataError, match="targets of type dict: hold no GT"):
        read_batch({}, {"boxes": torch.zeros(1, 4)}, SHAPE)


@pytest.mark.parametrize(
    ("labels", "masks", "message"),
    [
        (
            [0, 1],
            MASKS[:1],
            r"1 of the batch: labels of shape \(2,\), but masks of shape \(1, 12, ",
        ),
        ([0], MASKS, r"1 of the batch: labels of shape \(1,\), but masks of shape \(2, 12, 20\)"),
        ([0], MASKS[0], r"1 of the batch: labels of shape \(1,\), but masks of shape \(12, 20\)"),
        (
            [0, 255],
            MASKS,
            "1 of the batch: label 255 is not a class of the model; give 0 to 2, and 3",
        ),
        ([-1, 0], MASKS, "1 of the batch: label -1 is not a class"),
    ],
)
def test_invalid_gt_names_the_image(labels: list[int], masks: Tensor, message: str) -> None:
    targets = [{"labels": LABELS, "masks": MASKS}, {"labels": labels, "masks": masks}]
    with pytest.raises(DataError, match=message):
        read_batch({}, targets, replace(SHAPE, images=2))


def test_padding_labels_and_images_without_objects_in_any_form() -> None:
    empty: Any
    for empty in (torch.zeros(0), [], torch.zeros(0, 12, 20)):
        targets = [
            {"labels": torch.tensor([CLASSES, 1]), "masks": MASKS},
            {"labels": [], "masks": empty},
        ]
        first, second = read_batch({}, targets, replace(SHAPE, images=2)).targets or ()
        assert first["labels"].tolist() == [1] and len(second["labels"]) == 0
        assert torch.equal(first["masks"][:, :12, :20], MASKS[1:])
        assert second["masks"].shape == (0, 16, 32)


def test_labels_from_1_give_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The last class has the label of no-object, but padding has no mask."""
    for masks, warned in ((torch.zeros_like(MASKS), False), (MASKS, True)):
        caplog.clear()
        read_batch({}, [{"labels": torch.tensor([CLASSES, 1]), "masks": masks}], SHAPE)
        assert ("3 is the label of no-object; if your labels start at 1" in caplog.text) == warned


@pytest.mark.parametrize("scale", [0.25, 0.5, 2])
def test_gt_of_another_resolution_covers_an_image_without_padding(scale: float) -> None:
    masks = torch.ones(1, int(16 * scale), int(32 * scale) - 1)  # a pixel of rounding
    inputs = {"images": torch.zeros(1, 3, 16, 32)}
    batch = read_batch(inputs, [{"labels": [0], "masks": masks}], SHAPE)
    (target,) = batch.targets or []
    assert target["masks"].all()


@pytest.mark.parametrize(
    ("inputs", "size"),
    [
        ({"images": torch.zeros(1, 3, 16, 32)}, (64, 64)),
        ({"pixel_values": torch.zeros(1, 3, 16, 32), "pixel_mask": inside(12, 20)}, (6, 10)),
        ({"images": [torch.zeros(3, 12, 20)]}, (24, 40)),
    ],
)
def test_gt_that_fits_neither_image_nor_batch_is_an_error(inputs: Any, size: Any) -> None:
    message = rf"image 0 of the batch: masks of {size[0]} x {size[1]} pixels, but the .* to 16 x 32"
    with pytest.raises(DataError, match=message):
        read_batch(inputs, [{"labels": [0], "masks": torch.ones(1, *size)}], SHAPE)


@pytest.mark.parametrize("inputs", [{"features": {}}, {"images": torch.zeros(3, 3, 16, 32)}])
def test_gt_say_the_padding_that_the_inputs_do_not(inputs: Any) -> None:
    """A decoder alone receives features; a collate function may pad images without a mask."""
    targets = [
        {"labels": LABELS, "masks": MASKS},
        {"labels": [0], "masks": torch.ones(1, 8, 16)},
        {"labels": [], "masks": []},
    ]
    batch = read_batch(inputs, targets, replace(SHAPE, images=3))
    assert list(batch.images) == [(12, 20), (8, 16), (16, 32)]
    assert batch.valid_cells(0, GRID) == (3, 5)
    assert [int(one["masks"][-1:].sum()) for one in batch.targets or ()] == [40, 128, 0]


def test_gt_may_be_padded_less_than_the_images() -> None:
    """By one library to the largest image, by the other to a multiple of 32."""
    inputs = {"pixel_values": torch.zeros(1, 3, 16, 32), "pixel_mask": inside(12, 20)}
    masks = torch.nn.functional.pad(MASKS, (0, 4))
    (target,) = read_batch(inputs, [{"labels": LABELS, "masks": masks}], SHAPE).targets or ()
    assert torch.equal(target["masks"][:, :12, :20], MASKS)
    assert target["masks"].shape == (2, 16, 32)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_lists_of_images_are_padded_at_the_stride_of_the_model(stride: int) -> None:
    shape = PredictionShape(2, CLASSES, (64 // stride, 64 // stride), stride)
    inputs = {"images": [torch.zeros(3, 64, 64), torch.zeros(3, 48, 64)]}
    targets = [{"labels": [0], "masks": torch.ones(1, *one.shape[1:])} for one in inputs["images"]]
    batch = read_batch(inputs, targets, shape)
    assert batch.valid_cells(1, shape.grid) == (48 // stride, 64 // stride)
    assert batch.targets is not None
    assert batch.targets[1]["masks"][0].sum(0).tolist() == [48] * 64
    with pytest.raises(DataError, match=r"image 0 of the batch: 64 x 64 pixels, but the mask grid"):
        read_batch(inputs, targets, replace(shape, grid=(32 // stride, 32 // stride)))
