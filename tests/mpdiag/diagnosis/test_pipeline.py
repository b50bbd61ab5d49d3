"""Diagnosis of checkpoints and runs, and diagnosis.json."""

import json
import math
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import mpdiag
from mpdiag import rle
from mpdiag.analysis.build_adapter import build_adapter
from mpdiag.analysis.options import AnalysisOptions
from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.config import LossConfig
from mpdiag.data import SegmentationDataset, load_dataset, padded_targets
from mpdiag.diagnosis import run_evidence
from mpdiag.diagnosis.changes import Changes
from mpdiag.diagnosis.checks import evidence_candidates
from mpdiag.diagnosis.checks.annotations import check_wrong_labels
from mpdiag.diagnosis.checks.pixels import received_pixels
from mpdiag.diagnosis.collect import Collector, shift_masks, undo_shift
from mpdiag.diagnosis.run_evidence import read_evidence
from mpdiag.errors import ConfigError, DataError, RunError
from mpdiag.models import Mask2Former, instance_inference
from mpdiag.recording import InstanceRule
from mpdiag.store import Run
from mpdiag.store.diagnosis import Diagnosis, Finding
from mpdiag.store.schema import TABLES
from reports.layer_tables import layer_tables

from .module_checkpoint import as_checkpoint


def _collector(model: Mask2Former, data: SegmentationDataset) -> Collector:
    adapter = build_adapter(as_checkpoint(model), data, AnalysisOptions())
    adapter.to(torch.device("cpu"))
    return Collector(adapter, data, range(len(data)), torch.device("cpu"))


def test_changes_that_change_nothing_leave_the_predictions(
    model: Mask2Former, data: SegmentationDataset
) -> None:
    collector = _collector(model, data)
    own = collector.collect(every_layer=True)
    layers = frozenset(range(1, own.num_layers + 1))
    same = collector.collect(Changes(attention_from_masks=layers), every_layer=True)
    swapped = collector.collect(Changes(swap_channels=True), every_layer=True)
    np.testing.assert_allclose(same.images[0].class_logits, own.images[0].class_logits, atol=1e-4)
    assert np.abs(swapped.images[0].class_logits - own.images[0].class_logits).max() > 1e-3
    assert own.facts is not None and own.facts.attention_disagreement is not None
    assert own.facts.attention_disagreement.max() < 1e-3
    # The hooks are gone.
    again = collector.collect(every_layer=True)
    np.testing.assert_array_equal(again.images[0].class_logits, own.images[0].class_logits)


def test_masks_are_shifted_by_cells() -> None:
    masks = torch.zeros(1, 1, 6, 6)
    masks[0, 0, 2, 3] = 4
    moved = shift_masks(masks, (1, -2))
    assert moved[0, 0, 3, 1] == pytest.approx(4, abs=1e-4)
    half = shift_masks(masks, (0, 0.5))[0, 0, 2]
    assert half[3].item() == pytest.approx(2, abs=1e-4) == half[4].item()


@pytest.mark.parametrize("shift", [(0.5, 0.0), (-0.25, 2.25), (1.5, -2.0)])
def test_the_blur_of_a_shift_is_undone(shift: tuple[float, float]) -> None:
    masks = torch.randn(2, 3, 30, 31, generator=torch.Generator().manual_seed(0))
    again = undo_shift(shift_masks(masks, shift), (-shift[0], -shift[1]))
    inside = again - masks
    for axis, cells in zip((-2, -1), shift, strict=True):  # these cells left the grid
        lost, kept = math.ceil(abs(cells)), masks.shape[axis] - 2 * math.ceil(abs(cells))
        inside = inside.narrow(axis, lost, kept)
    assert inside.abs().max() < 1e-4
    blurred = shift_masks(shift_masks(masks, shift), (-shift[0], -shift[1]))
    assert (blurred - masks)[..., 4:-4, 4:-4].abs().max() > 0.1


def test_undoing_a_shift_by_most_of_a_cell_is_stable() -> None:
    masks = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    again = undo_shift(shift_masks(masks, (0.75, 0)), (-0.75, 0))
    assert (again - masks)[..., :48, :].abs().max() < 1e-4  # the error of the border has decayed


def test_the_evidence_of_a_run_gives_its_ap_in_each_layer(
    run: Path, data: SegmentationDataset
) -> None:
    diagnosis = mpdiag.diagnose(run)
    summary = Run.open(run).summary
    expected = [layer["ap"] for layer in summary["layer_scores"]]
    assert diagnosis.score == pytest.approx(summary["ap"]["ap"], abs=1e-9)
    assert [layer["ap"] for layer in diagnosis.layers] == pytest.approx(expected, abs=1e-9)


def test_a_run_with_detections_of_the_last_layer_only_names_this_layer(
    model: Mask2Former, data: SegmentationDataset, run: Path, tmp_path: Path
) -> None:
    mpdiag.analyze(as_checkpoint(model), data, tmp_path / "run", save_masks="none")
    [only] = mpdiag.diagnose(tmp_path / "run").layers
    last = mpdiag.diagnose(run).layers[-1]
    assert only["layer"] == last["layer"] == Run.open(run).num_layers
    assert only["ap"] == pytest.approx(last["ap"], abs=1e-12)


def test_the_evidence_of_a_model_gives_the_ap_of_its_run(
    model: Mask2Former, data: SegmentationDataset, run: Path
) -> None:
    adapter = build_adapter(as_checkpoint(model), data, AnalysisOptions())
    adapter.to(torch.device("cpu"))
    evidence = Collector(adapter, data, range(4), torch.device("cpu")).collect(every_layer=True)
    expected = [layer["ap"] for layer in Run.open(run).summary["layer_scores"]]
    found = [evidence.matched(layer).values()[0] for layer in range(len(expected))]
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_grid_of_a_run_is_that_of_the_model(
    model: Mask2Former, data: SegmentationDataset, tmp_path: Path
) -> None:
    """38 pixels, which 4 does not divide."""
    info = TrainingInfo(LossConfig(), short_side=38, long_side=38)
    loaded = replace(as_checkpoint(model), training_info=info)
    mpdiag.analyze(loaded, data, tmp_path / "run", limit=1, save_masks="none")
    adapter = build_adapter(loaded, data, AnalysisOptions())
    adapter.to(torch.device("cpu"))
    (own,) = Collector(adapter, data, range(1), torch.device("cpu")).collect().images
    (found,) = read_evidence(Run.open(tmp_path / "run"), data).images
    assert found.grid == own.grid == (10, 10)
    assert np.nanmax(found.area) <= 1
    np.testing.assert_allclose(found.center, own.center, atol=0.1)


@pytest.mark.parametrize("rule", ["mask2former", "detr", "sigmoid"])
def test_overlaps_are_those_of_the_instances_of_an_analysis(
    model: Mask2Former, data: SegmentationDataset, rule: InstanceRule
) -> None:
    """Of images of 52 pixels, padded to 64, which the rule "sigmoid" crops in another way."""
    info = TrainingInfo(LossConfig(), short_side=52, long_side=52)
    adapter = build_adapter(
        replace(as_checkpoint(model), training_info=info), data, AnalysisOptions()
    )
    adapter.to(device := torch.device("cpu"))
    adapter.info = replace(adapter.info, settings=replace(adapter.info.settings, inference=rule))
    collector = Collector(adapter, data, range(2), device)
    samples = map(collector.ground_truth.read_sample, range(2))
    (batch,) = adapter.batches(samples, device)
    targets = padded_targets([one.sample for one in batch], batch[0].padded, device)
    predicted = adapter.predict(batch, targets, attention=False)
    for place, (own, image) in enumerate(zip(collector.collect().images, batch, strict=True)):
        assert image.padded == (64, 64) and image.sizes.image == (52, 52)
        logits = predicted.class_logits[-1, place], predicted.mask_logits[-1, place]
        found = instance_inference(*logits, image.sizes, rule=rule)
        gt = data.ground_truth(place).masks
        shared = (found.masks[:, None] & gt).sum((-1, -2))
        union = (found.masks[:, None] | gt).sum((-1, -2))
        detections = own.detections(rule)
        assert detections.queries.tolist() == found.queries.tolist()
        np.testing.assert_allclose(detections.iou, shared / union, atol=1e-6)
        assert 0 < detections.iou.max() < 1


@pytest.mark.parametrize(
    ("queries", "message"), [(2000, "image 1 is invalid"), (1 << 15, "too many")]
)
def test_number_of_queries_in_the_summary_is_compared_with_the_rows(
    run: Path, data: SegmentationDataset, tmp_path: Path, queries: int, message: str
) -> None:
    """Before memory for all pairs of these queries is allocated."""
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run/summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_queries": queries}))
    opened = Run.open(tmp_path / "run")
    tracemalloc.start()
    with pytest.raises(RunError, match=message):
        read_evidence(opened, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < queries**2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("score", float("nan"), "a score that is no probability"),
        ("score", -0.5, "a score that is no probability"),
        ("score", 7.0, "a score that is no probability"),
        ("label", -1, "a detection of no class"),
    ],
)
def test_damaged_detections(
    run: Path, data: SegmentationDataset, tmp_path: Path, name: str, value: float, message: str
) -> None:
    shutil.copytree(run, tmp_path / "run")
    for path in (tmp_path / "run" / "detections").iterdir():
        rows = pq.read_table(path).to_pandas()
        rows.loc[0, name] = value
        schema = TABLES["detections"]
        pq.write_table(pa.Table.from_pandas(rows, schema, preserve_index=False), path)
    with pytest.raises(RunError, match=rf"image 1 is invalid \({message}\)"):
        read_evidence(Run.open(tmp_path / "run"), data)


def test_a_score_that_underflows_to_0(run: Path, data: SegmentationDataset, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for table in ("detections", "queries"):
        for path in (tmp_path / "run" / table).iterdir():
            rows = pq.read_table(path).to_pandas()
            rows.loc[rows["query"] == 0, "score"] = 0.0
            schema = TABLES[table]
            pq.write_table(pa.Table.from_pandas(rows, schema, preserve_index=False), path)
    for image in read_evidence(Run.open(tmp_path / "run"), data).images:
        assert np.isfinite(image.quality).all() and np.isfinite(image.class_logits).all()


def test_annotated_classes_that_a_run_did_not_keep_are_not_wrong(
    run: Path, data: SegmentationDataset, tmp_path: Path
) -> None:
    """One class of probability 0.6 is kept for each object: another one for every third.

    The annotated one may have the rest.
    """
    shutil.copytree(run, tmp_path / "run")
    detections, queries = [], {}
    for place, image_id in enumerate(data.image_ids):
        truth = data.ground_truth(place)
        height, width = truth.masks.shape[-2:]
        for query, (mask, label) in enumerate(zip(truth.masks, truth.labels.tolist(), strict=True)):
            kept = (label + (query % 3 == 0)) % len(data.classes)
            queries[image_id, query] = kept
            counts = rle.encode(mask.numpy())
            detections.append((image_id, 2, query, kept, 0.6, height, width, counts))
    schema = TABLES["detections"]
    for path in (tmp_path / "run/detections").iterdir():
        rows = pd.DataFrame(detections, columns=schema.names)
        pq.write_table(pa.Table.from_pandas(rows, schema, preserve_index=False), path)
    for path in (tmp_path / "run/queries").iterdir():
        rows = pq.read_table(path).to_pandas()
        for place, row in rows.iterrows():
            if (own := (row["image_id"], row["query"])) in queries:
                rows.loc[place, ["label", "score"]] = queries[own], 0.6
        table = pa.Table.from_pandas(rows, TABLES["queries"], preserve_index=False)
        pq.write_table(table, path)
    evidence = read_evidence(Run.open(tmp_path / "run"), data)
    assert len(list(check_wrong_labels(replace(evidence, every_class=True)))) == 1
    causes = [one.cause for one in evidence_candidates(evidence)]
    assert "label-noise" not in causes


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("MAX_BYTES", r"queries on 4 images take .* GiB of memory; give --limit 3"),
        ("MAX_VALUES", "too many to"),
    ],
)
def test_overlaps_and_classes_of_all_images_fit_in_memory(
    run: Path, data: SegmentationDataset, monkeypatch: pytest.MonkeyPatch, limit: str, message: str
) -> None:
    evidence = read_evidence(opened := Run.open(run), data)
    arrays = [
        array
        for image in evidence.images
        for array in (image.class_logits, image.repeated, image.moved)
    ]
    layers, queries, columns = evidence.images[0].class_logits.shape
    enough = {
        "MAX_BYTES": sum(array.nbytes for array in arrays),
        "MAX_VALUES": layers * queries * (queries + columns),
    }
    monkeypatch.setattr(run_evidence, limit, enough[limit])
    assert len(read_evidence(opened, data).images) == 4
    monkeypatch.setattr(run_evidence, limit, enough[limit] - 1)
    with pytest.raises(RunError, match=message):
        read_evidence(opened, data)


def test_a_diagnosis_is_read_as_it_was_written(tmp_path: Path) -> None:
    finding = Finding(
        "late-layers", 0.05, (0.02, 0.08), layers=(3,), evidence={"best_layer": 2}, confidence=0.99
    )
    layers, names = [{"layer": 0, "ap": 0.3}], ("disc", "square")
    diagnosis = Diagnosis(0.4, [finding], 0.01, 20, layers, class_names=names)
    diagnosis.write(tmp_path / "diagnosis.json")
    assert Diagnosis.read(tmp_path / "diagnosis.json") == diagnosis
    content = json.loads((tmp_path / "diagnosis.json").read_text())
    assert content["score"] == {"name": "ap", "value": 0.4}
    assert set(content["findings"][0]) == {
        "cause", "at_stake", "interval", "layers", "classes", "queries", "evidence", "remedy",
        "confidence",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema_version": 9}', '{"findings": [{"cause": "unknown"}]}']
)
def test_a_damaged_diagnosis_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "diagnosis.json"
    path.write_text(text)
    with pytest.raises(RunError, match=r"diagnosis\.json"):
        Diagnosis.read(path)


@pytest.mark.parametrize(
    "option",
    [{"part": "piloted"}, {"intervene": ("queries=none:0",)}, {"workers": 2}, {"limits": 1}],
)
def test_options_of_an_analysis_are_not_those_of_a_diagnosis(
    model: Mask2Former, data: SegmentationDataset, option: dict[str, Any]
) -> None:
    """They would diagnose another model, or have no effect."""
    with pytest.raises(TypeError, match=next(iter(option))):
        mpdiag.diagnose(as_checkpoint(model), data, limit=1, **option)


@pytest.mark.parametrize("change", ["fewer", "renumbered", "renamed"])
def test_a_run_is_diagnosed_with_its_own_classes_only(
    run: Path, data: SegmentationDataset, tmp_path: Path, change: str
) -> None:
    content = json.loads((data.image_root.parent / "annotations/instances_val.json").read_text())
    first, second, *others = content["categories"]
    if change == "fewer":
        content["categories"] = [first, second]
        kept = (first["id"], second["id"])
        content["annotations"] = [x for x in content["annotations"] if x["category_id"] in kept]
        expected = rf"class 2 is {others[0]['id']} '{others[0]['name']}' in the run and missing in"
    elif change == "renumbered":
        first["id"], second["id"] = second["id"], first["id"]
        expected = rf"class 0 is {second['id']} '{first['name']}' in the run and {second['id']} '"
    else:
        first["name"] = "another"
        expected = rf"class 0 is .* in the run and {first['id']} 'another' in other; give the data"
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=expected):
        mpdiag.diagnose(run, load_dataset(str(tmp_path / "other.json"), root=data.image_root))


def test_damaged_detections_are_an_error(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (file,) = (copy / "detections").iterdir()
    table = pq.read_table(file)
    for column, value in (("counts", None), ("counts", b"~"), ("label", 7)):
        place = table.schema.get_field_index(column)
        damaged = pa.array([value] * len(table), table.schema.field(column).type)
        pq.write_table(table.set_column(place, column, damaged), file)
        with pytest.raises(RunError, match=r"run: image 1 is invalid \(.*\); analyse again"):
            mpdiag.diagnose(copy)


def test_images_without_gt_are_an_error(
    model: Mask2Former, data: SegmentationDataset, tmp_path: Path
) -> None:
    content = json.loads((data.image_root.parent / "annotations/instances_val.json").read_text())
    file = tmp_path / "none.json"
    file.write_text(json.dumps({**content, "annotations": []}))
    empty = load_dataset(str(file), root=data.image_root)
    with pytest.raises(DataError, match=r"none: the images have no annotated objects \(1 used\)"):
        mpdiag.diagnose(as_checkpoint(model), empty, limit=1)
    run = tmp_path / "run"
    mpdiag.analyze(
        as_checkpoint(model), empty, run, evaluate_layers=True, save_masks="none", limit=2
    )
    with pytest.raises(DataError, match=r"\(2 used\); give images with objects"):
        mpdiag.diagnose(run)
    opened = Run.open(run)
    (ap,) = (row.cells for row in layer_tables(opened)[0].rows if row.cells[0] == "AP")
    assert ap == ("AP", "", *["n/a"] * opened.num_layers)


def test_a_checkpoint_needs_a_data_set(model: Mask2Former) -> None:
    with pytest.raises(ConfigError, match="--dataset"):
        mpdiag.diagnose(model)


def test_a_run_without_detections_is_an_error(
    model: Mask2Former, data: SegmentationDataset, tmp_path: Path
) -> None:
    mpdiag.analyze(
        as_checkpoint(model), data, tmp_path / "run", evaluate=False, limit=1, save_masks="none"
    )
    with pytest.raises(RunError, match="no detections"):
        mpdiag.diagnose(tmp_path / "run")


def test_a_panoptic_data_set_is_diagnosed_in_pq(
    model: Mask2Former, data: SegmentationDataset
) -> None:
    panoptic = load_dataset("synthetic", root=data.image_root.parents[1], task="panoptic")
    config = model.config.model_copy(update={"num_classes": len(panoptic.classes)})
    own = Mask2Former(config).train()
    own.backbone.eval()
    modes = [one.training for one in own.modules()]
    diagnosis = mpdiag.diagnose(as_checkpoint(own), panoptic, limit=2)
    assert [one.training for one in own.modules()] == modes and len(set(modes)) == 2
    assert diagnosis.num_images == 2
    assert diagnosis.as_json()["score"] == {"name": "pq", "value": diagnosis.score}
    assert {"pq", "ap"} <= diagnosis.layers[-1].keys()


def test_images_that_arrive_with_exchanged_channels_are_recognised(
    model: Mask2Former, data: SegmentationDataset
) -> None:
    collector = _collector(model, data)
    calls = 0

    def swap_every_second_image(module: torch.nn.Module, args: tuple[torch.Tensor]) -> torch.Tensor:
        nonlocal calls
        pixels = args[0].clone()
        for row in range(len(pixels)):
            pixels[row] = 2 * (pixels[row].flip(0) if calls % 2 else pixels[row]) + 1
            calls += 1
        return pixels

    handle = model.backbone.register_forward_pre_hook(swap_every_second_image)
    try:
        found = received_pixels(collector, collector.indices)
    finally:
        handle.remove()
    assert [one.are_swapped for one in found] == [False, True, False, True]
    assert [one.are_scaled for one in found] == [True, False, True, False]
