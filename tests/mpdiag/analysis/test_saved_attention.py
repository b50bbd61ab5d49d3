"""Saved attention against the recorder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.scenes import SyntheticScenes
from mpdiag.analysis import analyze
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.config import LossConfig, ModelConfig
from mpdiag.errors import RunError
from mpdiag.models import Mask2Former
from mpdiag.recording import record
from mpdiag.store import Run

SIZE = (50, 90)  # padded to 64 x 96, so that cells of stride 32 exceed the image
GRIDS = [(2, 3), (4, 6), (8, 12), (2, 3)]


@pytest.fixture(scope="module")
def scenes(small_config: ModelConfig) -> SyntheticScenes:
    return SyntheticScenes(3, SIZE, small_config.num_classes)


@pytest.fixture(scope="module")
def loaded(small_config: ModelConfig) -> LoadedCheckpoint:
    torch.manual_seed(0)
    model = Mask2Former(small_config).eval()
    with torch.no_grad():
        model.decoder.query_feat.weight.mul_(3)
        model.pixel_decoder.mask_features.weight.mul_(8)
    return LoadedCheckpoint(
        Path("model"), "", "", model, training_info=TrainingInfo(LossConfig(), 50, 90)
    )


def run_of(loaded: LoadedCheckpoint, scenes: SyntheticScenes, path: Path, **settings: Any) -> Run:
    analyze(loaded, scenes, path, evaluate=False, save_attention=True, **settings)
    return Run.open(path)


def saved_keys(run: Run, table: str, query: str) -> list[tuple[int, int]]:
    found = run.query(
        f"SELECT DISTINCT image_id, {query} FROM {table} WHERE {query} >= 0 "
        + ("AND kind = 'query' " if table == "masks" else "")
        + "ORDER BY ALL"
    )
    return list(found.itertuples(index=False, name=None))


def test_weights_equal_the_recording(
    tmp_path: Path, loaded: LoadedCheckpoint, scenes: SyntheticScenes
) -> None:
    run = run_of(loaded, scenes, tmp_path / "run", save_masks="all")
    for index in range(len(scenes)):
        with (
            torch.inference_mode(),
            record(loaded.model, only=["attention_mask", "cross_attention"]) as recording,
        ):
            loaded.model([scenes[index].image])
        for query in range(6):
            layers = run.attention(scenes[index].image_id, query)
            assert [layer.weights.shape for layer in layers] == GRIDS
            for number, (layer, grid) in enumerate(zip(layers, GRIDS, strict=True)):
                weights = recording.cross_attention[number][0, :, query].mean(0)
                seen = recording.attention_mask[number][0, query]
                assert layer.mask is not None
                assert np.array_equal(layer.mask, seen.view(grid).numpy())
                # Weights are rounded to multiples of the highest / 255. The batch of the analysis
                # holds other images too.
                bound = weights.max().item() * (0.5 / 255 + 1e-4)
                assert np.abs(layer.weights - weights.view(grid).numpy()).max() <= bound
                assert not layer.weights[~layer.mask].any()
                assert layer.image == pytest.approx((grid[0] * 50 / 64, grid[1] * 90 / 96))


def test_attention_of_the_queries_with_saved_masks(
    tmp_path: Path,
    loaded: LoadedCheckpoint,
    scenes: SyntheticScenes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpdiag.analysis.run.IMAGES_PER_PART", 1)
    run = run_of(loaded, scenes, tmp_path / "run", save_masks="worst:4")
    assert len(saved_keys(run, "masks", "index")) == 4
    assert saved_keys(run, "attention", "query") == saved_keys(run, "masks", "index")
    assert run.query("SELECT count(*) n FROM attention")["n"][0] == 4 * 4
    other = next(query for query in range(6) if (1, query) not in saved_keys(run, "masks", "index"))
    with pytest.raises(RunError, match=f"image 1, query {other}.*--save-attention"):
        run.attention(1, other)


def test_saved_masks_are_those_of_the_intervention(
    tmp_path: Path, loaded: LoadedCheckpoint, scenes: SyntheticScenes
) -> None:
    run = run_of(
        loaded, scenes, tmp_path / "run", save_masks="all", intervene=["attention=none:2-3:1"]
    )
    plain = run_of(loaded, scenes, tmp_path / "plain", save_masks="all")
    whole = [[layer.mask.all() for layer in run.attention(1, 1)] for run in (run, plain)]
    assert whole[0][1:3] == [True, True]
    assert whole[1][1:3] == [False, False]
    first, other = run.attention(1, 1)[0], plain.attention(1, 1)[0]
    assert np.array_equal(first.weights, other.weights)


def test_no_attention_by_default(
    tmp_path: Path, loaded: LoadedCheckpoint, scenes: SyntheticScenes
) -> None:
    analyze(loaded, scenes, tmp_path / "run", evaluate=False)
    run = Run.open(tmp_path / "run")
    assert not list((tmp_path / "run" / "attention").glob("*"))
    assert "save_attention" not in run.header["settings"]
    assert saved_keys(run, "masks", "index") and not saved_keys(run, "attention", "query")
