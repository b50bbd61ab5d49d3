"""Attention that a run keeps, against what the recorder tells of the same pass."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpdiag.analysis import analyze
from mpdiag.bench.scenes import Scenes
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.detectron2_config import Setup
from mpdiag.config import LossConfig, ModelConfig
from mpdiag.errors import RunError
from mpdiag.models import Mask2Former
from mpdiag.recording import record
from mpdiag.store import Run

SIZE = (50, 90)  # shown as 64 x 96: cells of stride 32 hang over the edge
GRIDS = [(2, 3), (4, 6), (8, 12), (2, 3)]


@pytest.fixture(scope="module")
def scenes(small_config: ModelConfig) -> Scenes:
    return Scenes(3, SIZE, small_config.num_classes)


@pytest.fixture(scope="module")
def loaded(small_config: ModelConfig) -> LoadedCheckpoint:
    torch.manual_seed(0)
    model = Mask2Former(small_config).eval()
    with torch.no_grad():
        model.decoder.query_feat.weight.mul_(3)
        model.pixel_decoder.mask_features.weight.mul_(8)
    return LoadedCheckpoint(Path("model"), "", "", model, setup=Setup(LossConfig(), 50, 90))


def run_of(loaded: LoadedCheckpoint, scenes: Scenes, path: Path, **settings: Any) -> Run:
    analyze(loaded, scenes, path, evaluate=False, save_attention=True, **settings)
    return Run.open(path)


def kept(run: Run, table: str, query: str) -> list[tuple[int, int]]:
    found = run.query(
        f"SELECT DISTINCT image_id, {query} FROM {table} WHERE {query} >= 0 "
        + ("AND kind = 'query' " if table == "masks" else "")
        + "ORDER BY ALL"
    )
    return list(found.itertuples(index=False, name=None))


def test_values_are_the_recorders_own(
    tmp_path: Path, loaded: LoadedCheckpoint, scenes: Scenes
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
                # A byte is a step of a 255th of the highest, and rounding is half a step off; the
                # pass of the analysis had other images beside this one.
                bound = weights.max().item() * (0.5 / 255 + 1e-4)
                assert np.abs(layer.weights - weights.view(grid).numpy()).max() <= bound
                assert not layer.weights[~layer.mask].any()
                assert layer.image == pytest.approx((grid[0] * 50 / 64, grid[1] * 90 / 96))


def test_of_exactly_the_queries_whose_masks_are_kept(
    tmp_path: Path, loaded: LoadedCheckpoint, scenes: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpdiag.analysis.pipeline.IMAGES_IN_A_PART", 1)
    run = run_of(loaded, scenes, tmp_path / "run", save_masks="worst:4")
    assert len(kept(run, "masks", "index")) == 4
    assert kept(run, "attention", "query") == kept(run, "masks", "index")
    assert run.query("SELECT count(*) n FROM attention")["n"][0] == 4 * 4
    other = next(query for query in range(6) if (1, query) not in kept(run, "masks", "index"))
    with pytest.raises(RunError, match=f"image 1, query {other}: analyse with --save-attention"):
        run.attention(1, other)


def test_masks_are_those_that_the_layers_used(
    tmp_path: Path, loaded: LoadedCheckpoint, scenes: Scenes
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


def test_without_it_there_is_none(tmp_path: Path, loaded: LoadedCheckpoint, scenes: Scenes) -> None:
    analyze(loaded, scenes, tmp_path / "run", evaluate=False)
    run = Run.open(tmp_path / "run")
    assert not list((tmp_path / "run" / "attention").glob("*"))
    assert "save_attention" not in run.header["settings"]
    assert kept(run, "masks", "index") and not kept(run, "attention", "query")
