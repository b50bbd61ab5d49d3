"""Size of saved masks on disk, and memory for masks at full size."""

import weakref
from pathlib import Path

import pytest
import torch

from benchmarks.scenes import SyntheticScenes
from mpdiag import evaluation
from mpdiag.analysis import analyze
from mpdiag.analysis.measure import MeasuredImage
from mpdiag.analysis.options import SavePolicy
from mpdiag.analysis.saved_masks import MaskSaver, merge_shards
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.config import LossConfig
from mpdiag.matching import finite_queries, match_with_costs
from mpdiag.metrics import image_rows
from mpdiag.metrics.rows import gt_on_grid
from mpdiag.models import Mask2Former
from mpdiag.store import RunWriter


def measured(scenes: SyntheticScenes, index: int) -> MeasuredImage:
    """Return an image with one query per object, whose mask moves onto it layer by layer."""
    sample = scenes[index]
    height, width = scenes.size
    grid = gt_on_grid(sample.masks, height // 4, width // 4)
    layers = [grid.roll((6 - layer, layer - 6), (1, 2)) for layer in range(7)]
    mask_logits = torch.stack(layers).float()[:, None] - 0.5
    class_logits = torch.zeros(*mask_logits.shape[:3], len(scenes.classes) + 1)
    target = {"labels": sample.labels, "masks": sample.masks}
    finite = finite_queries(class_logits, mask_logits)
    points = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    found = match_with_costs(class_logits, mask_logits, [target], finite, points=points)
    own = type(found)(*(getattr(found, name)[:, 0] for name in found.__slots__))
    rows = image_rows(class_logits[:, 0], mask_logits[:, 0], target, own.assignment, grid.shape[1:])
    return MeasuredImage(sample, rows, own, {})


def test_saved_masks_are_compressed_twentyfold(tmp_path: Path) -> None:
    scenes = SyntheticScenes(8, (480, 640), 7)
    writer = RunWriter.create(tmp_path / "run", {"name": "run"})
    saver = MaskSaver(writer, SavePolicy.parse("all"))
    bits = 0
    for index in range(len(scenes)):
        image = measured(scenes, index)
        saver.add(image)
        bits += image.rows.mask_logits.numel() + image.rows.gt_masks.numel()
    saver.write("part-00000")
    (file,) = (tmp_path / "run" / "masks").glob("*.parquet")
    assert file.stat().st_size <= bits / 8 / 20


def test_other_files_among_the_thumbnails_are_kept(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "run", {"name": "run"})
    folder = tmp_path / "run" / "thumbnails"
    for name in ("12.jpg", "._12.jpg", "cover.jpg"):
        (folder / name).touch()
    merge_shards(writer, SavePolicy(2))
    assert {path.name for path in folder.iterdir()} == {"._12.jpg", "cover.jpg"}


def test_only_one_image_has_masks_at_full_size(
    tmp_path: Path, small_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    created: list[weakref.ref[torch.Tensor]] = []
    original = evaluation.instance_inference

    def tracked(*args, **kwargs):
        assert not any(masks() is not None for masks in created)
        found = original(*args, **kwargs)
        created.append(weakref.ref(found.query_masks))
        return found

    monkeypatch.setattr(evaluation, "instance_inference", tracked)
    scenes = SyntheticScenes(4, (64, 96), small_config.num_classes)
    training_info = TrainingInfo(LossConfig(), short_side=64, long_side=96)
    loaded = LoadedCheckpoint(
        tmp_path, "", "", Mask2Former(small_config).eval(), training_info=training_info
    )
    passes = []
    loaded.model.register_forward_pre_hook(lambda model, inputs: passes.append(len(inputs[0])))
    analyze(loaded, scenes, tmp_path / "run")
    assert passes == [4]  # images of one batch
    assert len(created) == 4
