"""supervision.Detections from a recording, with a stand-in for the package."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mpdiag.errors import DependencyError, RecordingError
from mpdiag.integrations.supervision import to_detections
from mpdiag.recording import Recording


@pytest.fixture
def recording() -> Recording:
    """Two layers, one image, two queries on a grid of 4 x 6 cells; no-object is class 2."""
    recording = Recording("mpdiag Mask2Former", (), ["class_logits", "mask_logits"])
    masks = torch.full((1, 2, 4, 6), -20.0)
    masks[0, 0, 1:3, 2:4] = 20.0
    masks[0, 1, 0, 0] = 20.0
    classes = torch.tensor([[[0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]])
    empty = torch.full_like(masks, -20.0)
    recording.replace({"mask_logits": [empty, masks], "class_logits": [classes, classes]}, (4, 6))
    return recording


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names of supervision; its boxes end at the last pixel."""

    def mask_to_xyxy(masks: Any) -> Any:
        corners = [(np.argwhere(mask).min(0), np.argwhere(mask).max(0)) for mask in masks]
        return np.array([[*low[::-1], *high[::-1]] for low, high in corners])

    module = SimpleNamespace(Detections=SimpleNamespace, mask_to_xyxy=mask_to_xyxy)
    monkeypatch.setitem(sys.modules, "supervision", module)


@pytest.mark.usefixtures("stand_in")
def test_detections_of_the_last_layer(recording: Recording) -> None:
    found = to_detections(recording, size=(40, 60))
    # Query 1 is no-object. Query 0 covers rows 1-2 and columns 2-3 of cells with 10 x 10 pixels.
    assert found.class_id.tolist() == [1]
    assert found.data["query"].tolist() == [0]
    # The probability of the class times the mean probability inside the mask.
    logits = F.interpolate(recording.mask_logits[1, :, :1], (40, 60), mode="bilinear")[0, 0]
    quality = logits[logits > 0].sigmoid().mean()
    expected_score = torch.tensor([0.0, 9.0, 0.0]).softmax(0)[1] * quality
    assert found.confidence == pytest.approx([float(expected_score)], rel=1e-5)
    np.testing.assert_array_equal(found.mask[0], (logits > 0).numpy())
    assert found.mask[0, 10:30, 20:40].mean() >= 0.9  # all but the corners
    assert found.xyxy.tolist() == [[20, 10, 39, 29]]


@pytest.mark.usefixtures("stand_in")
def test_layers_padding_and_empty_masks(recording: Recording) -> None:
    assert to_detections(recording, size=(40, 60), layer=0, min_score=0.0).class_id.tolist() == []
    valid = to_detections(recording, size=(40, 40), valid=(4, 4))  # two columns are padding
    assert valid.xyxy.tolist() == [[20, 10, 39, 29]]
    for arguments in ({"layer": 2}, {"index": 1}):
        with pytest.raises(RecordingError, match="does not exist"):
            to_detections(recording, size=(40, 60), **arguments)


def test_missing_package(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(DependencyError, match=r"pip install 'mpdiag\[export\]'"):
        to_detections(recording, size=(40, 60))
