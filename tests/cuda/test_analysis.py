"""An analysis on a GPU beside that on the CPU."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from mpdiag.analysis import analyze
from mpdiag.config import ModelConfig
from mpdiag.data import SegmentationDataset
from mpdiag.models import Mask2Former


def test_equals_the_cpu(
    gpu: torch.device, data: SegmentationDataset, small_config: ModelConfig, tmp_path: Path
) -> None:
    """A cell whose logit is 0 up to rounding may differ, and with it areas and IoU."""
    torch.manual_seed(0)
    model = Mask2Former(small_config.model_copy(update={"num_classes": len(data.classes)}))
    with torch.no_grad():  # masks of all sizes; those of an untrained model are nearly empty
        model.pixel_decoder.mask_features.weight.mul_(4)
    summaries, rows = {}, {}
    for device in ("cpu", "cuda"):
        summaries[device] = analyze(model, data, tmp_path / device, device=device)
        table = pq.read_table(tmp_path / device / "queries")
        rows[device] = table.sort_by([(key, "ascending") for key in ("image_id", "layer", "query")])
    cpu, cuda = (rows[device] for device in ("cpu", "cuda"))
    assert summaries["cuda"]["ap"]["ap"] == pytest.approx(summaries["cpu"]["ap"]["ap"], abs=1e-3)
    for found, expected in zip(
        summaries["cuda"]["layers"], summaries["cpu"]["layers"], strict=True
    ):
        for name in ("miou_l", "miou_l_empty0", "util"):
            assert found[name] == pytest.approx(expected[name], abs=1e-3), name
    for name, limit in (("area", 3), ("score", 1e-3)):
        difference = cuda[name].to_numpy().astype(float) - cpu[name].to_numpy().astype(float)
        assert abs(difference).max() <= limit, name
    same = cuda["matched_gt"].to_numpy() == cpu["matched_gt"].to_numpy()
    assert same.mean() >= 0.99
