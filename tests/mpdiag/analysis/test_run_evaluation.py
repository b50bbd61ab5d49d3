"""AP, PQ and mIoU of a run against the metrics of the predictions of its model."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mpdiag.analysis import analyze
from mpdiag.analysis.run_evaluation import resample_ap
from mpdiag.checkpoints import LoadedCheckpoint
from mpdiag.data import GroundTruth, SegmentationDataset, load_dataset
from mpdiag.metrics import (
    AveragePrecision,
    PanopticQuality,
    SemanticIoU,
    class_map,
    segment_map,
)
from mpdiag.models import (
    ImageSizes,
    Mask2Former,
    PanopticSegments,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from mpdiag.store import Run
from mpdiag.store.transitions import TRANSITIONS, transitions_sql


def test_ap_of_the_last_layer(
    tmp_path: Path, loaded: LoadedCheckpoint, dataset: SegmentationDataset
) -> None:
    summary = analyze(loaded, dataset, tmp_path / "run", limit=5)
    expected = AveragePrecision(range(len(dataset.classes)))
    with torch.inference_mode():
        for index in range(5):
            sample = dataset[index]
            found = loaded.model([sample.image]).matching
            sizes = ImageSizes((64, 64), (64, 64), (64, 64))
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
    once, twice = np.ones((1, 5)), np.full((1, 5), 2.0)
    draws = np.concatenate([once, np.eye(5)[:1], twice])
    values = resample_ap(tmp_path / "run", dataset, draws)
    assert values[0] == pytest.approx(summary["ap"]["ap"], abs=1e-9)
    first = analyze(loaded, dataset, tmp_path / "first", limit=1)["ap"]["ap"]
    assert values[1] == pytest.approx(math.nan if first is None else first, nan_ok=True)


def test_ap_of_every_layer_and_ap_gains(
    tmp_path: Path, loaded: LoadedCheckpoint, dataset: SegmentationDataset
) -> None:
    plain = analyze(loaded, dataset, tmp_path / "plain", limit=5)
    summary = analyze(loaded, dataset, tmp_path / "run", limit=5, evaluate_layers=True)
    assert summary["ap"] == plain["ap"] and summary["layers"] == plain["layers"]
    run = Run.open(tmp_path / "run")
    moves = run.query(f"SELECT * FROM ({transitions_sql()})")
    kinds = {(m.image_id, m.query, m.layer): m.kind for m in moves.itertuples()}
    assert set(summary["ap_gains"]) == set(TRANSITIONS) and len(set(kinds.values())) > 2

    deepest: dict[str | None, int] = {}

    def ap(layer: int, reverted: str | None = None) -> float:
        expected = AveragePrecision(range(len(dataset.classes)))
        for index in range(5):
            sample = dataset[index]
            with torch.inference_mode():
                found = loaded.model([sample.image]).matching
            classes = found.class_logits[layer, 0].clone()
            masks = found.mask_logits[layer, 0].clone()
            for query in range(12):
                to = layer
                while reverted and to and kinds[sample.image_id, query, to] == reverted:
                    to -= 1
                deepest[reverted] = min(to, deepest.get(reverted, layer))
                classes[query] = found.class_logits[to, 0, query]
                masks[query] = found.mask_logits[to, 0, query]
            instances = instance_inference(classes, masks, ImageSizes((64, 64), (64, 64), (64, 64)))
            expected.update(sample.image_id, instances, sample.masks, sample.labels)
        return expected.compute().ap

    scores = [row["ap"] for row in summary["layer_scores"]]
    assert [row["layer"] for row in summary["layer_scores"]] == [0, 1, 2, 3, 4]
    assert scores == pytest.approx([ap(layer) for layer in range(5)], abs=1e-6)
    for kind, gain in summary["ap_gains"].items():
        assert gain == pytest.approx(ap(4, kind) - scores[4], abs=1e-6), kind
    assert min(deepest.values()) < 3  # a query had several such transitions in a row


def test_pq(tmp_path: Path, root: Path, loaded: LoadedCheckpoint) -> None:
    data = load_dataset("synthetic", root=root, task="panoptic")
    torch.manual_seed(0)
    changes = {"num_classes": len(data.classes), "num_queries": 2}
    model = Mask2Former(loaded.model.config.model_copy(update=changes)).eval()
    with torch.no_grad():  # confident classes, so that there are segments
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
            sizes = ImageSizes((64, 64), (64, 64), (64, 64))
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


def test_miou(tmp_path: Path, root: Path, loaded: LoadedCheckpoint) -> None:
    data = load_dataset("synthetic", root=root, task="semantic")
    torch.manual_seed(0)
    changes = {"num_classes": len(data.classes), "num_queries": 12}
    model = Mask2Former(loaded.model.config.model_copy(update=changes)).eval()
    with torch.no_grad():  # varied masks and classes
        model.decoder.class_embed.weight.mul_(30)
        model.decoder.query_feat.weight.mul_(3)
        model.pixel_decoder.mask_features.weight.mul_(8)
    summary = analyze(replace(loaded, model=model), data, tmp_path / "run", limit=6)
    expected = SemanticIoU(len(data.classes))
    sizes = ImageSizes((64, 64), (64, 64), (64, 64))
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
    # The GT has one mask per class.
    targets = run.query("SELECT image_id, label FROM targets")
    assert not targets.duplicated().any()


class CountingDataset(SegmentationDataset):
    """A data set that counts how often the ground truth of each image is read."""

    def __init__(self, data: SegmentationDataset) -> None:
        self.__dict__.update(data.__dict__)
        self.reads: Counter[int] = Counter()

    def ground_truth(self, index: int) -> GroundTruth:
        self.reads[index] += 1
        return super().ground_truth(index)


@pytest.mark.parametrize("evaluate", [False, True])
def test_ground_truth_is_read_once_to_measure_and_once_to_evaluate_all_layers(
    tmp_path: Path,
    loaded: LoadedCheckpoint,
    dataset: SegmentationDataset,
    evaluate: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mpdiag.analysis.run.IMAGES_PER_PART", 2)
    data = CountingDataset(dataset)
    options = {"limit": 5, "evaluate": evaluate, "evaluate_layers": evaluate}
    whole = analyze(loaded, data, tmp_path / "run", **options)
    assert data.reads == {index: 1 + evaluate for index in range(5)}

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    # A resumed run reads the images that it measured before only to evaluate them.
    with pytest.raises(KeyboardInterrupt):
        analyze(loaded, data, tmp_path / "resumed", **options, progress=interrupt)
    data.reads.clear()
    assert analyze(loaded, data, tmp_path / "resumed", **options, resume=True) == whole
    assert data.reads == ({0: 1, 1: 1, 2: 1, 3: 1, 4: 2} if evaluate else {4: 1})
