"""`mpdiag bench analyze`."""

import json
from dataclasses import asdict

import pytest
import torch

from benchmarks import analysis
from benchmarks.analysis import PairedTimes, analysis_table, bench_analysis
from benchmarks.naive_analysis import mpdiag_analysis, naive_analysis
from benchmarks.scenes import SyntheticScenes
from mpdiag.data import padded_targets
from mpdiag.errors import ConfigError


def test_analysis_and_inference_are_paired(small_config, render) -> None:
    results = bench_analysis(3, (64, 96), small_config)
    assert list(results.analyses) == ["with AP", "without AP"]
    for times in results.analyses.values():
        # All three images fit one batch.
        assert len(times.inference) == len(times.analysis) == 1
        assert min(*times.inference[0], *times.analysis[0], results.naive, results.mpdiag) > 0
    assert json.loads(json.dumps(asdict(results)))["images"] == 3
    text = render(analysis_table(results), width=120)
    assert "3 images of 64 x 96 on CPU" in text and "IoU and matching, naive" in text


def test_overhead() -> None:
    times = PairedTimes([(1.0, 2.0), (1.0, 2.0)], [(1.5, 2.0), (1.0, 2.0)], (0.5, 2.0))
    assert (times.overhead("wall"), times.overhead("cpu")) == (0.5, 0.5)
    assert (times.median_overhead("wall"), times.median_overhead("cpu")) == (0.25, 0.0)


def test_naive_baseline_computes_the_same() -> None:
    scenes = SyntheticScenes(2, (64, 96), 5)
    generator = torch.Generator().manual_seed(0)
    for index in range(2):
        (target,) = padded_targets([scenes[index]], (64, 96))
        class_logits = torch.randn(4, 1, 9, 6, generator=generator)
        mask_logits = 5 * torch.randn(4, 1, 9, 16, 24, generator=generator)
        mask_logits[1:3, 0, 2] = -1  # two empty masks in a row
        results = mpdiag_analysis(class_logits, mask_logits, target)
        assert results.equals(naive_analysis(class_logits, mask_logits, target))
        assert results.iou[1, 2].isnan() and (results.assignment[-1] >= 0).sum() == len(
            target["labels"]
        )
        other = naive_analysis(class_logits, -mask_logits, target)
        assert not results.equals(other)


def test_scenes_have_the_requested_size() -> None:
    scenes = SyntheticScenes(2, (48, 96), 3)
    sample, truth = scenes[1], scenes.ground_truth(1)
    assert sample.image.shape == (3, 48, 96) and sample.masks.shape[1:] == (48, 96)
    assert sample.masks.flatten(1).any(1).all() and len(sample.masks) == scenes.num_objects(1)
    assert sample.masks.sum(0).max() == 1 and sample.labels.max() < len(scenes.classes) == 3
    assert torch.equal(truth.areas, truth.masks.flatten(1).sum(1).double())


def test_invalid_options(small_config, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--images 0"):
        bench_analysis(0, (64, 64), small_config)
    monkeypatch.setattr(
        analysis, "naive_analysis", lambda c, m, t: mpdiag_analysis(c.flip(2), m.flip(2), t)
    )
    with pytest.raises(AssertionError, match="other IoU or matches"):
        bench_analysis(1, (64, 64), small_config)
