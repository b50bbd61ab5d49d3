"""Recordings as a data frame, as a figure and as text."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mpdiag.errors import RecordingError
from mpdiag.metrics import layer_miou
from mpdiag.models import Mask2Former
from mpdiag.recording import HookPoint, Recording, record

VALID = [(16, 16), (13, 15)]


@pytest.fixture
def recording(small_model: Mask2Former, images: list[Tensor]) -> Recording:
    with torch.no_grad(), record(small_model, only=["*", "cross_attention"]) as recording:
        small_model(images)
    return recording


class Echo(nn.Module):
    """Predicts the masks and classes that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_logits, self.class_logits = HookPoint(), HookPoint()

    def forward(self, masks: Sequence[Tensor], classes: Sequence[Tensor]) -> None:
        for mask in masks:
            self.mask_logits(mask)
        for logits in classes:
            self.class_logits(logits)


def test_a_hand_computed_case() -> None:
    masks = -torch.ones(3, 1, 2, 2, 4)  # layers, images, queries, height, width
    masks[0, 0, 0, 0, :] = 1  # 4 cells
    masks[1, 0, 0, :, :2] = 1  # 4 cells, 2 in common
    masks[2, 0, 0, :, :] = 1  # all 8
    classes = torch.full((3, 1, 2, 3), -20.0)
    classes[..., 2] = 0.0
    classes[1, 0, 0, 1] = 20.0
    model = Echo()
    with record(model) as recording:
        model(masks, classes)
    frame = recording.to_dataframe()
    assert frame["image"].tolist() == [0] * 6
    assert frame["layer"].tolist() == [0, 0, 1, 1, 2, 2]
    assert frame["query"].tolist() == [0, 1] * 3
    assert frame["area"].tolist() == [4, 0, 4, 0, 8, 0]
    np.testing.assert_array_equal(frame["iou_prev"], [np.nan, np.nan, 2 / 6, np.nan, 0.5, np.nan])
    assert frame["label"][2] == 1 and frame["score"][2] == pytest.approx(1)
    narrow = recording.to_dataframe(valid=[(1, 4)])
    assert narrow["area"].tolist() == [4, 0, 2, 0, 4, 0]


def test_layers_of_different_sizes_are_rejected() -> None:
    model, classes = Echo(), torch.zeros(3, 1, 2, 3)
    with record(model) as recording:
        model([torch.zeros(1, 2, size, size) for size in (2, 4, 4)], classes)
    sizes = r"different sizes \(\(1, 2, 2, 2\), \(1, 2, 4, 4\)"
    with pytest.raises(RecordingError, match=sizes):
        recording.to_dataframe()
    with pytest.raises(RecordingError, match=sizes):
        recording.plot(0)
    with record(model) as recording:
        model(torch.zeros(3, 1, 2, 4, 4), classes[:1])
    with pytest.raises(RecordingError, match="class_logits: 1 layers, but mask_logits have 3"):
        recording.to_dataframe()


def test_mean_iou_of_the_rows_is_miou_l(recording: Recording) -> None:
    frame = recording.to_dataframe(VALID)
    for image, valid in enumerate(VALID):
        expected = layer_miou(recording.mask_logits[:, image], valid=valid).miou_l
        found = frame[(frame["image"] == image) & (frame["layer"] > 0)]
        means = found.groupby("layer")["iou_prev"].mean()
        np.testing.assert_allclose(means, expected, rtol=1e-12)


def test_the_figure_shows_each_mask_in_red(recording: Recording, images: list[Tensor]) -> None:
    figure = recording.plot(query=2, image=images[1], index=1, valid=VALID[1])
    assert isinstance(figure, Figure)
    panels = [axis for axis in figure.axes if axis.images]
    assert len(panels) == 5
    rows = recording.to_dataframe(VALID).query("image == 1 and query == 2")
    for layer, axis in enumerate(panels):
        drawn = np.asarray(axis.images[0].get_array())
        assert drawn.shape == (50, 60, 3)
        red = drawn[..., 0] - drawn[..., 1:].max(-1) > 0.28  # a faded pixel has 0.25 at most
        mask = (recording.mask_logits[layer, 1, 2, :13, :15] > 0).numpy()
        at = np.arange(50) * 13 // 50, np.arange(60) * 15 // 60
        np.testing.assert_array_equal(red, mask[np.ix_(*at)])
        title = axis.get_title()
        row = rows[rows["layer"] == layer].iloc[0]
        assert (
            f"M^{{{layer}}}" in title and f"class {int(row['label'])}: {row['score']:.2f}" in title
        )
        if layer and not np.isnan(row["iou_prev"]):
            assert f"IoU {100 * row['iou_prev']:.1f} %" in title
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_figure_accepts_images_of_any_kind(recording: Recording, images: list[Tensor]) -> None:
    as_array = images[0].permute(1, 2, 0).numpy()
    pictures = [None, images[0], as_array, images[0] / 255, (images[0] / 255 - 0.5) / 0.25]
    for picture in pictures:
        figure = recording.plot(0, picture, layers=[1, 2])
        assert sum(bool(axis.images) for axis in figure.axes) == 2
    for wrong in (torch.zeros(5, 5), torch.zeros(4, 5, 5)):
        with pytest.raises(RecordingError, match=r"pass an image of shape \(H, W, 3\)"):
            recording.plot(0, wrong)
    with pytest.raises(RecordingError, match=r"street\.jpg: a path, not an image"):
        recording.plot(0, "street.jpg")
    for settings, what in (({"query": 6}, "query 6"), ({"query": 0, "index": 2}, "index 2")):
        with pytest.raises(RecordingError, match=f"{what}: does not exist"):
            recording.plot(**settings)
    with pytest.raises(RecordingError, match="layer 5: does not exist; use 0 to 4"):
        recording.plot(0, layers=[5])


def test_attention_as_a_map(recording: Recording) -> None:
    attention = recording.attention(layer=3, query=4, index=1)
    assert attention.shape == (4, 8, 8)
    assert torch.equal(attention.flatten(1), recording.cross_attention[2][1, :, 4])
    assert recording.attention(1, 0, grid=(1, 4)).shape == (4, 1, 4)
    with pytest.raises(RecordingError, match="layer 0: does not exist; use 1 to 4"):
        recording.attention(0, 0)


def test_attention_needs_a_grid(small_model: Mask2Former, images: list[Tensor]) -> None:
    with torch.no_grad(), record(small_model, only=["cross_attention"]) as recording:
        small_model(images)
    with pytest.raises(RecordingError, match=r"pass grid=\(rows, columns\), or record mask_logits"):
        recording.attention(1, 0)


def test_repr_lists_what_was_recorded(recording: Recording) -> None:
    text = repr(recording)
    assert text.startswith("Recording of mpdiag Mask2Former\n")
    assert "mask_logits: 5 layers of (2, 6, 16, 16)" in text
    assert "attention_mask: 4 layers of (2, 6, 4), (2, 6, 16), (2, 6, 64)" in text
    assert "piloted" not in text
    assert "empty" in repr(Recording("ours", [], ["query"]))
