"""Analysis of an official model, against the analysis of mpdiag's model with its weights."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import mpdiag
from mpdiag.config import ModelConfig
from mpdiag.data import load_dataset
from mpdiag.errors import ConfigError
from mpdiag.store import Run


def write_dataset(root: Path) -> str:
    """Write two images of 48 x 80 with boxes of three classes."""
    noise = np.random.default_rng(0)
    annotations = []
    for number, (x, y, label) in enumerate(((4, 5, 0), (40, 10, 2), (10, 2, 1))):
        corners = [x, y, x + 30, y, x + 30, y + 20, x, y + 20]
        annotations.append(
            {
                "id": number + 1,
                "image_id": number // 2,
                "category_id": label,
                "segmentation": [corners],
                "bbox": [x, y, 30, 20],
                "area": 600,
                "iscrowd": 0,
            }
        )
    for number in range(2):
        pixels = noise.integers(0, 255, (6, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 48)).save(root / f"{number}.png")
    images = [{"id": n, "file_name": f"{n}.png", "height": 48, "width": 80} for n in range(2)]
    categories = [{"id": n, "name": name} for n, name in enumerate(("disc", "square", "star"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "boxes.json").write_text(json.dumps(content))
    return str(root / "boxes.json")


def rows(path: Path) -> pd.DataFrame:
    return Run.open(path).query("SELECT * FROM queries ORDER BY image_id, layer, query")


def check_attention(ours: Run, theirs: Run) -> None:
    """Check that attention is equal in every layer with equal masks."""
    same = 0
    for image_id, query in ((n, q) for n in range(2) for q in range(6)):
        for one, other in zip(
            ours.attention(image_id, query), theirs.attention(image_id, query), strict=True
        ):
            assert one.image == other.image
            if np.array_equal(one.mask, other.mask):
                same += 1
                step = one.weights.max() / 255
                assert np.abs(one.weights - other.weights).max() <= 2 * step
    assert same > 2 * 6 * 2  # of 2 images, 6 queries, 4 layers


def test_rows_equal_mpdiags_model_with_the_same_weights(
    tmp_path: Path, build_official: Callable[[], nn.Module], our_config: ModelConfig
) -> None:
    """Logits differ in their last bits, so cells near 0 may differ."""
    data = load_dataset(write_dataset(tmp_path), root=tmp_path)
    official = build_official().eval()
    with torch.no_grad():  # masks of all sizes
        official.get_parameter("sem_seg_head.pixel_decoder.mask_features.weight").mul_(8)
    torch.save({"model": official.state_dict()}, tmp_path / "model.pth")
    keep = {"save_masks": "all", "save_attention": True}
    mpdiag.analyze(tmp_path / "model.pth", data, tmp_path / "ours", match_points=64, **keep)
    mpdiag.analyze(official, data, tmp_path / "official", **keep)
    ours, theirs = rows(tmp_path / "ours"), rows(tmp_path / "official")
    assert len(ours) == 2 * 5 * 6 and ours["area"].nunique() > 10
    assert (ours["area"] - theirs["area"]).abs().max() <= 3  # of 200 x 334 cells
    for name in ("layer", "query", "label", "matched_gt"):
        assert ours[name].equals(theirs[name]), name
    close = ["iou_prev", "best_gt_iou", "score", "class_cost", "mask_cost", "dice_cost"]
    pd.testing.assert_frame_equal(theirs[close], ours[close], rtol=1e-3, atol=1e-4)
    check_attention(Run.open(tmp_path / "ours"), Run.open(tmp_path / "official"))
    header = Run.open(tmp_path / "official").header
    assert header["architecture"]["family"] == "official Mask2Former"
    assert header["settings"]["match_points"] == 64  # from its matcher
    with pytest.raises(ConfigError, match="--part piloted: works with models that mpdiag runs"):
        mpdiag.analyze(official, data, tmp_path / "no", part="piloted")
