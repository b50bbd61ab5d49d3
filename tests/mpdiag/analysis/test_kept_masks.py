"""What kept masks take on disk, and what of an image's masks is held while the next is measured."""

import weakref
from pathlib import Path

import pytest
import torch

from mpdiag import evaluation
from mpdiag.analysis import analyze
from mpdiag.analysis.kept_masks import KeepPolicy, MaskKeeper
from mpdiag.analysis.tables import MeasuredImage
from mpdiag.bench.scenes import Scenes
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.detectron2_config import Setup
from mpdiag.config import LossConfig
from mpdiag.matching import finite_queries, match_finite
from mpdiag.metrics import image_rows
from mpdiag.metrics.rows import gt_on_grid
from mpdiag.models import Mask2Former
from mpdiag.store import RunWriter


def predicted(scenes: Scenes, index: int) -> MeasuredImage:
    """Each object a query whose mask settles on it: moved by 6 cells at first, then less."""
    sample = scenes[index]
    height, width = scenes.size
    grid = gt_on_grid(sample.masks, height // 4, width // 4)
    layers = [grid.roll((6 - layer, layer - 6), (1, 2)) for layer in range(7)]
    mask_logits = torch.stack(layers).float()[:, None] - 0.5
    class_logits = torch.zeros(*mask_logits.shape[:3], len(scenes.classes) + 1)
    target = {"labels": sample.labels, "masks": sample.masks}
    finite = finite_queries(class_logits, mask_logits)
    points = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    found = match_finite(class_logits, mask_logits, [target], finite, points=points)
    own = type(found)(*(getattr(found, name)[:, 0] for name in found.__slots__))
    rows = image_rows(class_logits[:, 0], mask_logits[:, 0], target, own.assignment, grid.shape[1:])
    return MeasuredImage(sample, rows, own, {})


def test_kept_masks_take_a_twentieth_of_their_bits(tmp_path: Path) -> None:
    scenes = Scenes(8, (480, 640), 7)
    writer = RunWriter.create(tmp_path / "run", {"name": "run"})
    keeper = MaskKeeper(writer, KeepPolicy.parse("all"))
    bits = 0
    for index in range(len(scenes)):
        image = predicted(scenes, index)
        keeper.add(image)
        bits += image.rows.mask_logits.numel() + image.rows.gt_masks.numel()
    keeper.write("part-00000")
    (file,) = (tmp_path / "run" / "masks").glob("*.parquet")
    assert file.stat().st_size <= bits / 8 / 20


def test_one_images_full_size_masks_at_a_time(
    tmp_path: Path, small_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    plain = evaluation.instance_inference

    def watched(*args, **kwargs):
        assert not any(masks() is not None for masks in made)
        found = plain(*args, **kwargs)
        made.append(weakref.ref(found.masks))
        return found

    monkeypatch.setattr(evaluation, "instance_inference", watched)
    scenes = Scenes(4, (64, 96), small_config.num_classes)
    setup = Setup(LossConfig(), short_side=64, long_side=96)
    loaded = LoadedCheckpoint(tmp_path, "", "", Mask2Former(small_config).eval(), setup=setup)
    passes = []
    loaded.model.register_forward_pre_hook(lambda model, inputs: passes.append(len(inputs[0])))
    analyze(loaded, scenes, tmp_path / "run")
    assert passes == [4]  # images of one batch
    assert len(made) == 4
