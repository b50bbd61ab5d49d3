"""What `mpdiag bench analyze` compares; never how fast it is."""

import json
from io import StringIO

import pytest
import torch
from rich.console import Console

from benchmarks import analysis
from benchmarks.analysis import Pairs, analysis_table, bench_analysis
from benchmarks.naive_analysis import by_toolkit, plainly
from benchmarks.scenes import Scenes
from mpdiag.data import padded_targets
from mpdiag.errors import ConfigError


def test_both_kinds_of_analysis_take_turns_with_bare_passes(small_config) -> None:
    found = bench_analysis(3, (64, 96), small_config)
    assert list(found.analyses) == ["with AP", "without AP"]
    for pairs in found.analyses.values():
        # All three images fit one batch.
        assert len(pairs.bare) == len(pairs.analysed) == 1
        assert min(*pairs.bare[0], *pairs.analysed[0], found.plain, found.ours) > 0
    assert json.loads(json.dumps(found.as_json()))["images"] == 3
    console = Console(width=120, file=StringIO())
    console.print(analysis_table(found))
    text = console.file.getvalue()
    assert "3 images of 64 x 96 on CPU" in text and "IoU and matching, plain" in text


def test_what_was_added() -> None:
    pairs = Pairs([(1.0, 2.0), (1.0, 2.0)], [(1.5, 2.0), (1.0, 2.0)], (0.5, 2.0))
    assert (pairs.added("wall"), pairs.added("cpu")) == (0.5, 0.5)
    assert (pairs.median_added("wall"), pairs.median_added("cpu")) == (0.25, 0.0)


def test_the_plain_way_finds_the_same() -> None:
    scenes = Scenes(2, (64, 96), 5)
    generator = torch.Generator().manual_seed(0)
    for index in range(2):
        (target,) = padded_targets([scenes[index]], (64, 96))
        class_logits = torch.randn(4, 1, 9, 6, generator=generator)
        mask_logits = 5 * torch.randn(4, 1, 9, 16, 24, generator=generator)
        mask_logits[1:3, 0, 2] = -1  # two empty masks in a row
        found = by_toolkit(class_logits, mask_logits, target)
        assert found.equals(plainly(class_logits, mask_logits, target))
        assert found.iou[1, 2].isnan() and (found.assignment[-1] >= 0).sum() == len(
            target["labels"]
        )
        other = plainly(class_logits, -mask_logits, target)
        assert not found.equals(other)


def test_scenes_are_instances_of_the_size_that_is_asked_for() -> None:
    scenes = Scenes(2, (48, 96), 3)
    sample, truth = scenes[1], scenes.ground_truth(1)
    assert sample.image.shape == (3, 48, 96) and sample.masks.shape[1:] == (48, 96)
    assert sample.masks.flatten(1).any(1).all() and len(sample.masks) == scenes.num_objects(1)
    assert sample.masks.sum(0).max() == 1 and sample.labels.max() < len(scenes.classes) == 3
    assert torch.equal(truth.areas, truth.masks.flatten(1).sum(1).double())


def test_mistakes(small_config, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--images 0"):
        bench_analysis(0, (64, 64), small_config)
    monkeypatch.setattr(analysis, "plainly", lambda c, m, t: by_toolkit(c.flip(2), m.flip(2), t))
    with pytest.raises(AssertionError, match="other IoU or matches"):
        bench_analysis(1, (64, 64), small_config)
