"""Run directories against predictions of the model; interrupted and resumed runs; errors."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mpdiag.analysis import analyze
from mpdiag.analysis.tables import query_of_gt
from mpdiag.checkpoints import LoadedCheckpoint, save_checkpoint
from mpdiag.checkpoints.detectron2_config import TrainingInfo
from mpdiag.config import (
    BackboneConfig,
    DataConfig,
    DataSource,
    LossConfig,
    ModelConfig,
    PilotConfig,
    TrainConfig,
)
from mpdiag.data import SegmentationDataset, generate_synthetic, load_dataset, padded_targets
from mpdiag.errors import CheckpointError, ConfigError, DataError, MpdiagError, RunError
from mpdiag.matching import match
from mpdiag.metrics import layer_miou, utilization
from mpdiag.models import Mask2Former
from mpdiag.ops import seeded_points
from mpdiag.store import Run


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, loaded: LoadedCheckpoint, dataset: SegmentationDataset
) -> Run:
    path = tmp_path_factory.mktemp("analysis") / "run"
    summary = analyze(loaded, dataset, path, save_masks="worst:5")
    assert json.loads((path / "summary.json").read_text()) == summary
    return Run.open(path)


def test_summary_equals_metrics_of_predictions(
    run: Run, loaded: LoadedCheckpoint, dataset: SegmentationDataset
) -> None:
    masks, assignments, utils = [], [], []
    with torch.inference_mode():
        for index in range(len(dataset)):
            sample = dataset[index]
            output = loaded.model([sample.image]).matching
            found = match(
                output.class_logits,
                output.mask_logits,
                padded_targets([sample], (64, 64)),
                points=seeded_points(12544, 0),
            )
            masks.append(output.mask_logits)
            assignments.append(found)
            utils.append(utilization(found[:, 0], len(sample.labels)))
    expected = layer_miou(torch.cat(masks, 1), assignment=torch.cat(assignments, 1))
    util = torch.stack(utils).mean(0)
    assert run.summary["util_m0"] == pytest.approx(util[0].item())
    for layer, row in enumerate(run.summary["layers"]):
        for name in ("miou_l", "miou_l_empty0", "miou_l_empty1", "miou_l_matched", "empty_pairs"):
            assert row[name] == pytest.approx(getattr(expected, name)[layer].item(), abs=1e-3), name
        assert row["util"] == pytest.approx(util[layer + 1].item())


def test_rows_agree_with_saved_masks(run: Run, dataset: SegmentationDataset) -> None:
    assert run.query("SELECT count(*) n FROM images")["n"][0] == 9
    assert run.query("SELECT count(*) n FROM queries")["n"][0] == 9 * 5 * 12
    kept = run.query(
        "SELECT image_id, index, max(change_score) change_score FROM masks WHERE kind = 'query' "
        "GROUP BY ALL ORDER BY change_score DESC"
    )
    assert len(kept) == 5
    rows = run.query(
        "SELECT q.image_id, q.query, sum(1 - coalesce(q.iou_prev, 1)) change_score "
        "FROM queries q JOIN queries f USING (image_id, query) "
        "WHERE q.layer > 0 AND f.layer = 4 AND f.matched_gt >= 0 "
        "GROUP BY ALL ORDER BY change_score DESC LIMIT 5"
    )
    assert kept["change_score"].tolist() == pytest.approx(rows["change_score"].tolist())
    for image_id, query in zip(kept["image_id"], kept["index"], strict=True):
        masks = run.masks(image_id, query)
        areas = run.query(
            "SELECT area, iou_prev FROM queries WHERE image_id = ? AND query = ? ORDER BY layer",
            [int(image_id), int(query)],
        )
        assert masks.sum((1, 2)).tolist() == areas["area"].tolist()
        both = masks[:-1] & masks[1:]
        either = masks[:-1] | masks[1:]
        iou = both.sum((1, 2)) / np.maximum(either.sum((1, 2)), 1)
        expected = areas["iou_prev"].iloc[1:].fillna(0).tolist()
        assert iou.tolist() == pytest.approx(expected)
        assert run.image(image_id).is_file()
        assert len(run.gt_masks(image_id)) == len(dataset[dataset.image_ids.index(image_id)].labels)
    thumbnails = {int(path.stem) for path in (run.path / "thumbnails").iterdir()}
    assert thumbnails == set(kept["image_id"])


def test_targets_hold_the_matched_query_of_every_layer(run: Run) -> None:
    targets = run.query("SELECT * FROM targets")
    assert len(targets) > 9
    for target in targets.itertuples():
        for layer, query in enumerate(target.matched_query):
            row = run.query(
                "SELECT matched_gt FROM queries WHERE image_id = ? AND layer = ? AND query = ?",
                [int(target.image_id), layer, int(query)],
            )
            assert row["matched_gt"][0] == target.gt


def test_query_of_gt() -> None:
    matched = np.array([[1, -1, 0], [-1, 0, -1]])
    assert query_of_gt(matched, 3).tolist() == [[2, 0, -1], [1, -1, -1]]


def test_mp_part_has_one_query_per_gt(
    tmp_path: Path, loaded: LoadedCheckpoint, dataset: SegmentationDataset
) -> None:
    summary = analyze(loaded, dataset, tmp_path / "run", part="piloted")
    assert summary["num_queries"] == max(dataset.num_objects(i) for i in range(len(dataset)))
    run = Run.open(tmp_path / "run")
    assert run.header["part"] == "piloted" and run.header["settings"]["pilot_layers"] == 4
    options = {"part": "piloted", "pilot_layers": 2, "limit": 1, "save_masks": "none"}
    analyze(loaded, dataset, tmp_path / "two", **options)
    two = Run.open(tmp_path / "two")
    assert two.header["settings"]["pilot_layers"] == 2 and two.summary["num_images"] == 1
    assert not list((tmp_path / "two" / "masks").iterdir())
    rows = run.query(
        "SELECT i.num_gt, count(*) n FROM queries q JOIN images i USING (image_id) "
        "WHERE layer = 4 GROUP BY q.image_id, i.num_gt"
    )
    assert (rows["num_gt"] == rows["n"]).all()


@pytest.mark.parametrize("save_masks", ["worst:4", "all"])
def test_resumed_run_equals_uninterrupted_run(
    tmp_path: Path,
    loaded: LoadedCheckpoint,
    dataset: SegmentationDataset,
    monkeypatch: pytest.MonkeyPatch,
    save_masks: str,
) -> None:
    monkeypatch.setattr("mpdiag.analysis.run.IMAGES_PER_PART", 2)

    def stop_after(images: int) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            if done == images:
                raise KeyboardInterrupt

        return progress

    keep = {"save_masks": save_masks, "save_attention": True}
    whole = analyze(loaded, dataset, tmp_path / "whole", **keep)
    with pytest.raises(KeyboardInterrupt):
        analyze(loaded, dataset, tmp_path / "run", **keep, progress=stop_after(5))
    with pytest.raises(RunError, match="unfinished"):
        Run.open(tmp_path / "run")
    with pytest.raises(RunError, match="--resume"):
        analyze(loaded, dataset, tmp_path / "run", **keep)
    resumed = analyze(loaded, dataset, tmp_path / "run", **keep, resume=True)
    assert resumed == whole
    for table in ("masks", "attention"):
        one, other = (
            Run.open(tmp_path / name).query(f"SELECT * FROM {table} ORDER BY ALL")
            for name in ("whole", "run")
        )
        assert len(one) and one.equals(other)


def test_workers_change_no_byte(
    tmp_path: Path, loaded: LoadedCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after an image could not be read, and the run was resumed."""
    monkeypatch.setattr("mpdiag.analysis.run.IMAGES_PER_PART", 2)
    generate_synthetic(tmp_path / "data" / "synthetic", train=1, val=5, size=64)
    dataset = load_dataset("synthetic", root=tmp_path / "data")
    whole = analyze(loaded, dataset, tmp_path / "whole")
    files = sorted(path.relative_to(tmp_path / "whole") for path in tmp_path.glob("whole/**/*.*"))
    assert len(files) > 20
    for workers, damaged in ((0, 3), (2, 4)):
        image = dataset.image_root / dataset.file_name(damaged)
        content = image.read_bytes()
        image.write_bytes(content[:100])
        run = tmp_path / f"run-{workers}"
        with pytest.raises(DataError, match=rf"{image.name}.*; then continue with --resume"):
            analyze(loaded, dataset, run, workers=workers)
        image.write_bytes(content)
        assert analyze(loaded, dataset, run, workers=workers, resume=True) == whole
        for file in files:
            if file.name != "run.json":  # has the time
                assert (run / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    with pytest.raises(ConfigError, match="--workers -1"):
        analyze(loaded, dataset, tmp_path / "other", workers=-1)


def test_run_resumes_after_a_corrupt_image_is_left_out(
    tmp_path: Path, loaded: LoadedCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions move, and another process may have written a later part already."""
    monkeypatch.setattr("mpdiag.analysis.run.IMAGES_PER_PART", 2)
    generate_synthetic(tmp_path / "data" / "synthetic", train=1, val=7, size=64)
    dataset = load_dataset("synthetic", root=tmp_path / "data")
    analyze(loaded, dataset, tmp_path / "whole")
    path = dataset.annotations.path
    content = json.loads(path.read_text())
    left_out = content["images"].pop(1)["id"]
    content["annotations"] = [x for x in content["annotations"] if x["image_id"] != left_out]
    path.write_text(json.dumps(content))
    shorter = load_dataset("synthetic", root=tmp_path / "data")
    expected = analyze(loaded, shorter, tmp_path / "expected")

    run = tmp_path / "run"
    shutil.copytree(tmp_path / "whole", run)
    (run / "summary.json").unlink()
    for part in ("part-00000", "part-00001"):
        (run / "images" / f"{part}.parquet").unlink()
    header = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(header | {"finished": False}))
    resumed = analyze(loaded, shorter, run, resume=True)
    assert resumed["ap"] == expected["ap"] and resumed["num_gt"] == expected["num_gt"]
    for one, other in zip(resumed["layers"], expected["layers"], strict=True):
        assert one == pytest.approx(other, rel=1e-5)  # batches of other images

    content["images"][0]["file_name"], content["images"][4]["file_name"] = (
        content["images"][4]["file_name"],
        content["images"][0]["file_name"],
    )
    path.write_text(json.dumps(content))
    (run / "run.json").write_text(json.dumps(header | {"finished": False}))
    changed = load_dataset("synthetic", root=tmp_path / "data")
    with pytest.raises(RunError, match="the data set, which has changed; analyse again in another"):
        analyze(loaded, changed, run, resume=True)


def test_predictions_that_are_not_finite_are_counted_but_not_averaged(
    tmp_path: Path,
    loaded: LoadedCheckpoint,
    dataset: SegmentationDataset,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """NaN in one query of layer 2; infinity in the last layer of the first image of a batch."""
    calls = {"layer": 0, "pass": 0}

    def corrupt(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        layer, calls["layer"] = calls["layer"] % 5, calls["layer"] + 1
        calls["pass"] += layer == 0
        changed = output.clone()
        if layer == 2:
            changed[:, 3, 5, 5] = torch.nan
        if layer == 4:
            changed[0] = torch.inf
        return changed

    handle = loaded.model.decoder.hook_points.mask_logits.register_forward_hook(corrupt)
    try:
        summary = analyze(loaded, dataset, tmp_path / "run", limit=3, save_masks="worst:3")
    finally:
        handle.remove()
    run = Run.open(tmp_path / "run")
    not_finite = run.query(
        "SELECT image_id, layer, query FROM queries WHERE area IS NULL ORDER BY ALL"
    )
    assert (not_finite["layer"] == 2).sum() == 3 and set(
        not_finite[not_finite["layer"] == 2]["query"]
    ) == {3}
    assert (not_finite["layer"] == 4).sum() == 12 * calls["pass"]
    pairs = run.query("SELECT count(iou_prev) n FROM queries WHERE layer = 3 AND query = 3")
    assert pairs["n"][0] == 0
    assert summary["layers"][0]["miou_l"] > 0 and summary["non_finite"] == len(not_finite)
    assert f"{len(not_finite)} predictions hold NaN or infinity" in caplog.text
    assert "The first is of " + dataset[0].file_name + ", layer 2, query 3" in caplog.text
    matched = run.query("SELECT max(matched_gt) gt FROM queries WHERE area IS NULL")
    assert matched["gt"][0] == -1


def test_data_set_from_the_config_of_the_checkpoint(
    tmp_path: Path, loaded: LoadedCheckpoint, root: Path
) -> None:
    info = TrainingInfo(LossConfig(), dataset=DataSource("synthetic"))
    named = replace(loaded, recipe=None, training_info=info)
    analyze(named, None, tmp_path / "run", root=root, limit=1)
    assert Run.open(tmp_path / "run").header["dataset"]["name"] == "synthetic"
    with pytest.raises(ConfigError, match="--dataset: is missing"):
        analyze(replace(named, training_info=TrainingInfo(LossConfig())), None, tmp_path / "none")


def test_data_set_from_the_recipe_of_the_checkpoint(
    tmp_path: Path, loaded: LoadedCheckpoint, root: Path
) -> None:
    def trained_on(dataset: str, folder: Path) -> LoadedCheckpoint:
        data = DataConfig(dataset=dataset, root=folder)
        return replace(loaded, recipe=TrainConfig(model=loaded.model.config, data=data))

    analyze(trained_on("synthetic", root), None, tmp_path / "run", limit=1)
    assert Run.open(tmp_path / "run").header["dataset"]["name"] == "synthetic"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: has no synthetic data set"):
        analyze(trained_on("synthetic", tmp_path / "empty"), None, tmp_path / "none")
    assert not any((tmp_path / "empty").iterdir())
    for training_images in ("coco_2017_train", str(tmp_path / "train.json")):
        with pytest.raises(ConfigError, match="--dataset: is missing"):
            analyze(trained_on(training_images, root), None, tmp_path / "none")


def test_invalid_input_writes_nothing(
    tmp_path: Path,
    loaded: LoadedCheckpoint,
    dataset: SegmentationDataset,
    root: Path,
    checkpoint: Path,
) -> None:
    def refuses(kind: type[MpdiagError], message: str, **changes: object) -> None:
        arguments = {
            "checkpoint": loaded,
            "dataset": dataset,
            "output": tmp_path / "run",
            **changes,
        }
        with pytest.raises(kind, match=message):
            analyze(**arguments)  # type: ignore[arg-type]
        assert not (tmp_path / "run").exists()

    refuses(ConfigError, "worst:K", save_masks="some")
    refuses(ConfigError, "--save-masks none", save_masks="none", save_attention=True)
    refuses(ConfigError, "matching part only", part="piloted", save_attention=True)
    refuses(ConfigError, "matching part only", part="piloted", intervene=["attention=gt:1"])
    refuses(ConfigError, "give layers in 1-4", intervene=["attention=gt:9"])
    for layers in (-1, 0, 5):
        refuses(ConfigError, f"{layers}: .* in 1-4", part="piloted", pilot_layers=layers)
    refuses(ConfigError, "--limit 0", limit=0)
    refuses(CheckpointError, "no such file", checkpoint=tmp_path / "none.pth")
    with torch.device("cpu"):
        other = Mask2Former(
            ModelConfig(
                num_classes=2,
                backbone=BackboneConfig(name="resnet18", channels=(8, 8, 16, 16)),
                hidden_dim=32,
                mask_dim=32,
                encoder_layers=1,
                decoder_layers=1,
            )
        )
    path = tmp_path / "other.pth"
    save_checkpoint(path, other)
    refuses(
        CheckpointError, r"other\.pth: predicts 2 classes, but .*instances_val", checkpoint=path
    )
    classes = [asdict(info) for info in dataset.classes]
    named = [{**one, "name": "blob"} if number == 2 else one for number, one in enumerate(classes)]
    refuses(
        CheckpointError,
        f"class 2 is blob, but {classes[2]['name']} in .*instances_val.json",
        checkpoint=replace(loaded, classes=named),
    )
    analyze(replace(loaded, classes=classes), dataset, tmp_path / "taken", limit=1)
    with pytest.raises(RunError, match="finished"):
        analyze(loaded, dataset, tmp_path / "taken", limit=1, resume=True)
    with pytest.raises(RunError, match="another run"):
        analyze(loaded, dataset, tmp_path / "taken", limit=2, resume=True)


def test_checkpoint_without_class_embeddings_has_no_mp_part(
    tmp_path: Path, loaded: LoadedCheckpoint, dataset: SegmentationDataset
) -> None:
    config = loaded.model.config.model_copy(update={"label_embedding": False})
    path = tmp_path / "plain.pth"
    save_checkpoint(path, Mask2Former(config))
    with pytest.raises(CheckpointError, match="no class embeddings"):
        analyze(path, dataset, tmp_path / "run", part="piloted")


def test_mp_part_without_attention_masks_is_rejected(
    tmp_path: Path, loaded: LoadedCheckpoint, dataset: SegmentationDataset
) -> None:
    recipe = TrainConfig(
        model=loaded.model.config, method="piloted", pilot=PilotConfig(query_input="mask-code")
    )
    with pytest.raises(CheckpointError, match=r"pilot\.query_input = mask-code, so its MP part"):
        analyze(replace(loaded, recipe=recipe), dataset, tmp_path / "run", part="piloted")


def test_intervention_changes_later_layers_and_is_recorded(
    tmp_path: Path, loaded: LoadedCheckpoint, dataset: SegmentationDataset
) -> None:
    plain = analyze(loaded, dataset, tmp_path / "plain", limit=4)
    changed = analyze(loaded, dataset, tmp_path / "gt", limit=4, intervene=["attention=gt:3-4"])
    miou = [[layer["miou_l"] for layer in summary["layers"]] for summary in (plain, changed)]
    assert miou[0][:2] == miou[1][:2] and miou[0][2:] != miou[1][2:]
    header = Run.open(tmp_path / "gt").header
    assert header["settings"]["intervene"] == ["attention=gt:3-4"]
