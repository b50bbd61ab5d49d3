"""AP, PQ and mIoU of a run against what its model finds and the run has kept."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mpdiag.analysis import analyze
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.data import SegmentationDataset, load_dataset
from mpdiag.metrics import (
    AveragePrecision,
    PanopticQuality,
    SemanticIoU,
    class_map,
    segment_map,
)
from mpdiag.models import (
    Mask2Former,
    PanopticSegments,
    Sizes,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from mpdiag.store import Run
from mpdiag.store.transitions import TRANSITIONS, classified


def test_ap_is_that_of_the_kept_detections(
    tmp_path: Path, loaded: LoadedCheckpoint, dataset: SegmentationDataset
) -> None:
    summary = analyze(loaded, dataset, tmp_path / "run", limit=5)
    expected = AveragePrecision(range(len(dataset.classes)))
    with torch.inference_mode():
        for index in range(5):
            sample = dataset[index]
            found = loaded.model([sample.image]).matching
            sizes = Sizes((64, 64), (64, 64), (64, 64))
            instances = instance_inference(
                found.class_logits[-1, 0], found.mask_logits[-1, 0], sizes
            )
            expected.update(sample.image_id, instances, sample.masks, sample.labels)
    averages = expected.compute()
    for name, value in summary["ap"].items():
        wanted = getattr(averages, name)
        assert value == (None if math.isnan(wanted) else pytest.approx(wanted, abs=1e-6)), name
    assert summary["ap"]["ap"] is not None
    without = analyze(loaded, dataset, tmp_path / "plain", limit=5, evaluate=False)
    assert "ap" not in without
    assert without["layers"] == summary["layers"]


def test_ap_of_every_layer_and_what_undoing_a_class_gains(
    tmp_path: Path, loaded: LoadedCheckpoint, dataset: SegmentationDataset
) -> None:
    plain = analyze(loaded, dataset, tmp_path / "plain", limit=5)
    summary = analyze(loaded, dataset, tmp_path / "run", limit=5, evaluate_layers=True)
    assert summary["ap"] == plain["ap"] and summary["layers"] == plain["layers"]
    run = Run.open(tmp_path / "run")
    moves = run.query(f"SELECT * FROM ({classified()})")
    kinds = {(m.image_id, m.query, m.layer): m.kind for m in moves.itertuples()}
    assert set(summary["ap_gains"]) == set(TRANSITIONS) and len(set(kinds.values())) > 2

    deepest: dict[str | None, int] = {}

    def ap(layer: int, undone: str | None = None) -> float:
        expected = AveragePrecision(range(len(dataset.classes)))
        for index in range(5):
            sample = dataset[index]
            with torch.inference_mode():
                found = loaded.model([sample.image]).matching
            classes = found.class_logits[layer, 0].clone()
            masks = found.mask_logits[layer, 0].clone()
            for query in range(12):
                stands = layer
                while undone and stands and kinds[sample.image_id, query, stands] == undone:
                    stands -= 1
                deepest[undone] = min(stands, deepest.get(undone, layer))
                classes[query] = found.class_logits[stands, 0, query]
                masks[query] = found.mask_logits[stands, 0, query]
            instances = instance_inference(classes, masks, Sizes((64, 64), (64, 64), (64, 64)))
            expected.update(sample.image_id, instances, sample.masks, sample.labels)
        return expected.compute().ap

    scores = [row["ap"] for row in summary["layer_scores"]]
    assert [row["layer"] for row in summary["layer_scores"]] == [0, 1, 2, 3, 4]
    assert scores == pytest.approx([ap(layer) for layer in range(5)], abs=1e-6)
    for kind, gain in summary["ap_gains"].items():
        assert gain == pytest.approx(ap(4, kind) - scores[4], abs=1e-6), kind
    assert min(deepest.values()) < 3  # some query had several such transitions in a row


def test_pq_is_that_of_the_segments(tmp_path: Path, root: Path, loaded: LoadedCheckpoint) -> None:
    data = load_dataset("synthetic", root=root, task="panoptic")
    torch.manual_seed(0)
    changes = {"num_classes": len(data.classes), "num_queries": 2}
    model = Mask2Former(loaded.model.config.model_copy(update=changes)).eval()
    with torch.no_grad():  # sure of its classes, so that some segments are found
        model.decoder.class_embed.weight.mul_(100)
        model.decoder.class_embed.bias[-1] = -99
        model.pixel_decoder.mask_features.weight.mul_(8)
    whole = replace(loaded, model=model)
    summary = analyze(whole, data, tmp_path / "run", limit=6)
    things = [info.isthing for info in data.classes]
    expected = PanopticQuality(things)
    found_any = 0
    with torch.inference_mode():
        for index in range(6):
            sample = data[index]
            found = model([sample.image]).matching
            sizes = Sizes((64, 64), (64, 64), (64, 64))
            segments = panoptic_inference(
                found.class_logits[-1, 0], found.mask_logits[-1, 0], sizes, things=things
            )
            found_any += len(segments.labels)
            expected.update(segments, PanopticSegments(segment_map(sample.masks), sample.labels))
    assert found_any and "ap" not in summary
    scores = expected.compute()
    assert summary["pq"]["pq"] == scores.all.pq
    assert summary["pq"]["rq_things"] == scores.things.rq
    assert summary["pq"]["sq_stuff"] == scores.stuff.sq


def test_miou_is_that_of_the_class_maps(
    tmp_path: Path, root: Path, loaded: LoadedCheckpoint
) -> None:
    data = load_dataset("synthetic", root=root, task="semantic")
    torch.manual_seed(0)
    changes = {"num_classes": len(data.classes), "num_queries": 12}
    model = Mask2Former(loaded.model.config.model_copy(update=changes)).eval()
    with torch.no_grad():  # masks and classes of all kinds
        model.decoder.class_embed.weight.mul_(30)
        model.decoder.query_feat.weight.mul_(3)
        model.pixel_decoder.mask_features.weight.mul_(8)
    summary = analyze(replace(loaded, model=model), data, tmp_path / "run", limit=6)
    expected = SemanticIoU(len(data.classes))
    sizes = Sizes((64, 64), (64, 64), (64, 64))
    found_on = []
    with torch.inference_mode():
        for index in range(6):
            sample = data[index]
            found = model([sample.image]).matching
            logits = found.class_logits[-1, 0], found.mask_logits[-1, 0]
            classes = semantic_inference(*logits, sizes, resize_scores=True)
            found_on.append(len(classes.unique()))
            expected.update(classes, class_map(sample.masks, sample.labels))
    scores = expected.compute()
    assert summary["miou"] == {"miou": scores.miou, "miou_in_gt": scores.miou_in_gt}
    assert scores.miou > 0 and "ap" not in summary and "pq" not in summary
    run = Run.open(tmp_path / "run")
    assert run.header["task"] == "semantic"
    rows = run.query("SELECT image_id, label, query, score FROM detections ORDER BY image_id")
    assert rows.groupby("image_id").size().tolist() == found_on and max(found_on) > 1
    assert set(rows["query"]) == {-1} and set(rows["score"]) == {1}
    # The GT that is matched is one mask a class.
    targets = run.query("SELECT image_id, label FROM targets")
    assert not targets.duplicated().any()
